"""The bundle decides where it runs unless the user does, and contradictions are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.backends.placement import CPU, CUDA, Device, Placement
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from s2d_trt.manifest import PlanEntry, QueryProfile


@pytest.fixture
def plain(target_bundle: Path) -> Bundle:
    return Bundle.open(target_bundle)


@pytest.fixture
def compiled(plain: Bundle) -> Bundle:
    """The same bundle, its manifest with a plan."""
    plan = PlanEntry(
        file="target.plan",
        graph="target",
        flavor="tensorrt_rtx",
        builder_version="1.7.1.116",
        compute_capabilities=("8.9",),
        profiles=(QueryProfile(1, 64, 64),),
        bytes=1,
        memory_bytes=1,
        activation_bytes=1,
        weight_format="fp16",
        weight_streaming=False,
    )
    cache = replace(plain.manifest.cache, layout="BHSD", slots=512)
    return Bundle(plain.directory, replace(plain.manifest, plans=(plan,), cache=cache))


@pytest.mark.parametrize(("text", "device"), [("cpu", CPU), ("cuda", CUDA), ("cuda:3", Device("cuda", 3))])
def test_a_device_can_be_written_and_read_back(text: str, device: Device) -> None:
    assert Device.parse(text) == device
    assert Device.parse(str(device)) == device


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA"])
def test_another_device_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a device"):
        Device.parse(text)


def test_a_bundle_without_plans_runs_on_the_cpu(plain: Bundle) -> None:
    assert Placement().choose(plain) == ("onnxruntime", CPU)


def test_a_bundle_with_plans_runs_on_the_first_gpu(compiled: Bundle) -> None:
    assert Placement().choose(compiled) == ("tensorrt", CUDA)


def test_without_a_backend_the_device_decides_it(plain: Bundle, compiled: Bundle) -> None:
    second = Device("cuda", 1)
    assert Placement(device=second).choose(plain) == ("onnxruntime", second)
    assert Placement(device=second).choose(compiled) == ("tensorrt", second)


def test_the_users_backend_is_taken(compiled: Bundle) -> None:
    assert Placement("onnxruntime", CUDA).choose(compiled) == ("onnxruntime", CUDA)


def test_tensorrt_on_the_cpu_is_refused(compiled: Bundle) -> None:
    with pytest.raises(OptionError, match="TensorRT runs on a GPU"):
        Placement("tensorrt", CPU).choose(compiled)


@pytest.mark.parametrize("placement", [Placement("onnxruntime"), Placement(device=CPU), Placement("onnxruntime", CPU)])
def test_graphs_for_a_gpu_are_refused_on_the_cpu(compiled: Bundle, placement: Placement) -> None:
    with pytest.raises(OptionError, match=r"graphs for a GPU \(layout BHSD\); take --device cuda"):
        placement.choose(compiled)


def test_tensorrt_for_a_bundle_of_another_backend_is_refused(plain: Bundle) -> None:
    with pytest.raises(OptionError, match="no TensorRT plans; build it with --backend tensorrt"):
        Placement("tensorrt").choose(plain)


@pytest.mark.parametrize("placement", [Placement(), Placement("tensorrt")])
def test_plans_that_are_missing_are_refused_with_the_command_that_compiles_them(
    compiled: Bundle, placement: Placement
) -> None:
    bare = Bundle(compiled.directory, replace(compiled.manifest, plans=()))
    with pytest.raises(OptionError, match=r"no TensorRT plans; compile them with python -m export\.compile"):
        placement.choose(bare)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_graphs_of_a_narrow_precision_are_refused_on_the_cpu(plain: Bundle, precision: str) -> None:
    narrow = Bundle(plain.directory, replace(plain.manifest, precision=precision))
    with pytest.raises(OptionError, match=f"computes in {precision}, which is for GPUs"):
        Placement().choose(narrow)
    assert Placement(device=CUDA).choose(narrow) == ("onnxruntime", CUDA)


def test_int8_rows_are_refused_on_a_gpu(plain: Bundle) -> None:
    rows = Bundle(plain.directory, replace(plain.manifest, precision="int8"))
    with pytest.raises(OptionError, match="int8 rows, which is for CPUs; take --device cpu"):
        Placement(device=CUDA).choose(rows)
