"""A bundle may be built anew while it is opened or in use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import write_bundle
from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.scheduler import Scheduler
from runtime.targets.target import Target
from s2d_trt.bundle import Bundle, load_bundle
from s2d_trt.errors import BundleError

ONE_THREAD = Placement(threads=1)


@pytest.fixture
def bundle(other_target_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(other_target_bundle, tmp_path / "target.engine"))


@pytest.fixture
def replace(target_bundle: Path) -> Callable[[Path], None]:
    """Builds another target into a bundle."""

    def built(bundle: Path) -> None:
        with write_bundle(bundle) as writer:
            source = Bundle.open(target_bundle)
            for name, entry in source.manifest.files.items():
                shutil.copyfile(source.path(name), writer.staging / name)
                writer._files[name] = entry
            writer.commit(source.manifest)

    return built


def test_a_bundle_that_is_replaced_while_it_is_opened_is_opened_again(
    bundle: Path, replace: Callable[[Path], None]
) -> None:
    opened = []

    def load(found: Bundle) -> Target:
        opened.append(found.manifest.name)
        if len(opened) == 1:
            replace(bundle)
        return Target(found, ONE_THREAD)

    assert load_bundle(bundle, "target", False, load).name == "target"
    assert opened == ["other", "target"]


def test_a_damaged_bundle_that_nobody_replaces_is_opened_once(bundle: Path) -> None:
    opened = []

    def load(found: Bundle) -> Target:
        opened.append(found)
        raise BundleError("damaged")

    with pytest.raises(BundleError, match="damaged"):
        load_bundle(bundle, "target", False, load)
    assert len(opened) == 1


def test_a_decoder_goes_on_where_its_bundle_was_replaced(bundle: Path, replace: Callable[[Path], None]) -> None:
    decoder = Decoder(Target.open(bundle, ONE_THREAD))
    options = Options(6, draft=False)
    before = [list(decoder.run(decoder.request([5, 9, number], options))) for number in range(4)]
    replace(bundle)
    requests = [decoder.request([5, 9, number], options) for number in range(4)]
    scheduler = Scheduler(sequences=4)  # graphs for several texts were not open
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        scheduler.step()
    assert [request.error for request in requests] == [None] * 4
    assert [request.tokens for request in requests] == [
        [token for step in steps for token in step.tokens] for steps in before
    ]
