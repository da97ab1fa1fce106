"""A full or read-only disk ends a build in one line and leaves the old bundle; for caches it is no error at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export import target as export_target
from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate
from runtime.targets.target import Target
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from s2d_trt.files import publishing_directory, write_file

ROOT = Path(__file__).parents[2]
Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounts a disk in memory with the given options."""
    mounted = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a disk: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Leave only so many bytes, in whole pages."""
    (disk / "filling").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))


@pytest.mark.parametrize("kib", [64, 500, 700])
def test_a_build_on_a_disk_that_becomes_full(other_target_checkpoint: Path, disk: Disk, monkeypatch, kib: int) -> None:
    place = disk(f"size={kib}k")
    monkeypatch.setattr("export.pipeline.check_space", lambda *_: None)
    with pytest.raises(OptionError, match=r"cannot be written .*No space left"):
        export_target.main(
            ["--checkpoint", str(other_target_checkpoint), "--out", str(place / "x.engine"), "--no-parity"]
        )
    assert not list(place.iterdir())


def test_a_build_over_an_older_bundle_on_a_full_disk(
    other_target_checkpoint: Path, target_bundle: Path, disk: Disk, monkeypatch
) -> None:
    out = Path(shutil.copytree(target_bundle, disk("size=8m") / "x.engine"))
    fill(out.parent, 2**16)
    monkeypatch.setattr("export.pipeline.check_space", lambda *_: None)
    with pytest.raises(OptionError, match="No space left"):
        export_target.main(["--checkpoint", str(other_target_checkpoint), "--out", str(out), "--no-parity"])
    assert {path.name for path in out.iterdir()} == {path.name for path in target_bundle.iterdir()}
    Bundle.open(out, verify=True)


@pytest.mark.parametrize("options", ["size=64k", "size=64k,ro", "size=64k,nr_inodes=2"])
def test_caches_on_a_full_or_read_only_disk(
    target_bundle: Path, draft_bundle: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    place = disk(options)
    if "ro" not in options and "inodes" not in options:
        fill(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    monkeypatch.setattr("runtime.backends.cpu.prepacked.LEAST_BYTES", 0)
    decoder = Decoder(
        Target.open(target_bundle, Placement(threads=1)), SortedDraft.open(draft_bundle, Placement(threads=1))
    )
    assert len(generate(decoder, [5, 9, 7], Options(8)).tokens) == 8


def test_a_cache_that_belongs_to_someone_else(target_bundle: Path, tmp_path: Path) -> None:
    """Root may write everywhere, unless it gives up the capabilities to do so."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    try:
        os.chown(cache, 12345, 12345)
    except OSError as cause:
        pytest.skip(f"needs the right to give a folder away: {cause}")
    without = [*("setpriv", "--bounding-set", "-dac_override,-dac_read_search"), sys.executable]
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    command = [
        "-m",
        "runtime.run",
        "--draft",
        "none",
        "--target",
        str(target_bundle),
        "--prompt",
        "a",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [*without, *command], cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list(cache.iterdir()) == []


def test_files_and_directories_on_a_full_disk(disk: Disk) -> None:
    place = disk("size=64k")
    write_file(place / "file", "old")
    fill(place)
    before = sorted(place.iterdir())
    with pytest.raises(OSError, match="No space left"):
        write_file(place / "file", bytes(2**17))
    with pytest.raises(OSError, match="No space left"), publishing_directory(place / "folder") as scratch:
        (scratch / "part").write_bytes(bytes(2**17))
    assert sorted(place.iterdir()) == before
    assert (place / "file").read_text() == "old"
