"""A plan that does not fit is refused; the message names its builder, what is installed, and the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.cuda.device import open_gpu
from runtime.backends.placement import CUDA, Placement
from runtime.backends.tensorrt.backend import invalidity, make_log
from runtime.backends.tensorrt.plans import check_plan, find_plan, installed_flavors
from runtime.backends.tensorrt.runtime_cache import RuntimeCacheFile
from runtime.targets.target import Target
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError, OptionError, S2DError
from s2d_trt.manifest import Manifest, PlanEntry, QueryProfile

HERE = {"tensorrt_rtx": "1.7.1.116"}


def plan(**changes: Any) -> PlanEntry:
    entry = PlanEntry(
        file="target.plan",
        graph="target",
        flavor="tensorrt_rtx",
        builder_version="1.7.1.116",
        compute_capabilities=("8.6", "8.9"),
        profiles=(QueryProfile(1, 64, 64), QueryProfile(65, 128, 128)),
        bytes=1,
        memory_bytes=1,
        activation_bytes=1,
        weight_format="fp16",
        weight_streaming=False,
    )
    return replace(entry, **changes)


@pytest.fixture
def bundle(target_bundle: Path) -> Bundle:
    return Bundle.open(target_bundle)


def with_plans(bundle: Bundle, *plans: PlanEntry) -> Bundle:
    manifest: Manifest = replace(bundle.manifest, plans=plans)
    return Bundle(bundle.directory, manifest)


def test_a_plan_that_fits_is_accepted(bundle: Bundle) -> None:
    check_plan(bundle, plan(), HERE, "RTX 4090", "8.9")
    check_plan(bundle, plan(compute_capabilities=()), HERE, "H200", "9.0")


@pytest.mark.parametrize(
    ("entry", "installed", "reasons"),
    [
        (plan(), {}, ["no TensorRT is installed", "pip install -e '.[tensorrt]' in the checkout"]),
        (plan(), {"tensorrt": "11.4"}, ["tensorrt_rtx 1.7.1.116, and here is tensorrt 11.4", "--trt-flavor tensorrt"]),
        (
            plan(),
            {"tensorrt_rtx": "1.8.0"},
            ["here is tensorrt_rtx 1.8.0", "--trt-flavor tensorrt_rtx", "export.compile"],
        ),
        (
            plan(compute_capabilities=("7.5", "8.6")),
            HERE,
            ["for compute capability 7.5, 8.6, and RTX 4090 has 8.9", "--compute-capability 8.9"],
        ),
        (
            plan(flavor="tensorrt", builder_version="11.4", compute_capabilities=("9.0",)),
            {"tensorrt": "11.4"},
            ["for compute capability 9.0, and RTX 4090 has 8.9", "--trt-flavor tensorrt"],
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    bundle: Bundle, entry: PlanEntry, installed: dict[str, str], reasons: list[str]
) -> None:
    with pytest.raises(S2DError) as caught:
        check_plan(bundle, entry, installed, "RTX 4090", "8.9")
    assert all(reason in str(caught.value) for reason in [*reasons, "target.plan was built by"])
    assert "\n" not in str(caught.value)


def test_a_graph_without_a_plan_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"has no plan of head; compile it with python -m export\.compile"):
        find_plan(with_plans(bundle, plan()), "head")


def test_installed_flavours_have_versions() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)
    assert installed_flavors()["tensorrt_rtx"] == trt.__version__


@pytest.mark.parametrize("content", [b"not a plan, but as long as a header or longer" * 4, b"vtrt"])
def test_tensorrt_names_a_damaged_plan(content: bytes) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)
    runtime = trt.Runtime(make_log(trt))
    assert invalidity(trt, runtime, content) == "malformed engine"


def test_the_last_error_of_tensorrt_is_kept() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)
    log = make_log(trt)
    log.log(trt.ILogger.Severity.ERROR, "the first\n line")
    log.log(trt.ILogger.Severity.WARNING, "not an error")
    assert log.reason == "the first line"


def test_without_a_gpu_a_run_says_so_in_one_line(target_bundle: Path) -> None:
    try:
        open_gpu(0)
    except OptionError:
        pass
    else:
        pytest.skip("there is a GPU here")
    with pytest.raises(OptionError, match=r"no GPU number 0 can be used here|needs cuda-core") as caught:
        Target.open(target_bundle, Placement(device=CUDA))
    assert "\n" not in str(caught.value)


class Cache:
    """Keeps bytes, as TensorRT's own runtime cache does."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content


class Config:
    def __init__(self) -> None:
        self.cache = Cache()

    def create_runtime_cache(self) -> Cache:
        return self.cache

    def set_runtime_cache(self, cache: Cache) -> bool:
        return cache is self.cache


def test_the_next_start_reads_the_runtime_cache(
    bundle: Bundle, gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = plan(file=next(iter(bundle.manifest.files)))
    first, config = RuntimeCacheFile(bundle, entry, gpu), Config()
    first.open(config)
    config.cache.content = b"kernels"
    first.save()
    second, again = RuntimeCacheFile(bundle, entry, gpu), Config()
    second.open(again)
    assert again.cache.content == b"kernels"
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_a_cache_that_cannot_be_written_is_no_error(
    bundle: Bundle, gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache, config = RuntimeCacheFile(bundle, plan(file=next(iter(bundle.manifest.files))), gpu), Config()
    cache.open(config)
    config.cache.content = b"kernels"
    cache.save()
