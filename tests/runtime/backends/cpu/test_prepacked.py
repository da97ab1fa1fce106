"""The cache of reordered weights gives the same bits, serves starts at the same time, and never makes one fail."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import TargetLane
from runtime.backends.cpu import prepacked, session
from runtime.backends.cpu.backend import OnnxTarget
from s2d_trt.bundle import Bundle


@pytest.fixture(params=["fp32", "int8"])
def bundle(request, target_bundle: Path, int8_target_bundle: Path, tmp_path: Path, monkeypatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 0)
    source = target_bundle if request.param == "fp32" else int8_target_bundle
    return Bundle.open(Path(shutil.copytree(source, tmp_path / "target.engine")))


def logits(bundle: Bundle) -> np.ndarray:
    rows, engine = np.arange(3), OnnxTarget(bundle, 1)
    lane = TargetLane(engine.context(), rows + 5, rows, 0, 0, np.tri(3, dtype=bool), rows)
    return np.array(engine.forward([lane])[0])


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "s2d-trt" / "prepacked").glob("*/*"))


def test_a_start_from_the_cache_gives_the_same_bits(bundle: Bundle, tmp_path: Path) -> None:
    first = logits(bundle)
    [made] = caches(tmp_path)
    before = (made / "weights.bin").stat().st_mtime_ns
    assert np.array_equal(logits(bundle), first)
    assert caches(tmp_path) == [made]
    assert (made / "weights.bin").stat().st_mtime_ns == before


def test_what_a_start_left_that_was_killed_behind_its_cache_is_removed(bundle: Bundle, tmp_path: Path) -> None:
    logits(bundle)
    [made] = caches(tmp_path)
    left = made.with_name(f".{made.name}-killed.partial")
    left.mkdir()
    logits(bundle)
    assert not left.exists()


def test_a_new_cache_drops_those_of_bundles_that_are_gone(bundle: Bundle, tmp_path: Path) -> None:
    logits(bundle)
    moved = Bundle.open(Path(shutil.move(bundle.directory, tmp_path / "moved.engine")))
    logits(moved)
    [made] = caches(tmp_path)
    assert (made / "bundle.txt").read_text(encoding="utf-8") == str(moved.directory)


def test_small_weights_are_not_cached(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 2**28)
    logits(bundle)
    assert not caches(tmp_path)


def test_a_disk_without_room_gets_no_cache(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prepacked, "ROOM", 2**60)
    logits(bundle)
    assert not caches(tmp_path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """Every bit of the second half is another one."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(byte ^ 255 for byte in content[half:]))


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "seal.json"])
@pytest.mark.parametrize("damage", [emptied, flipped, Path.unlink])
def test_a_damaged_cache_is_written_again(bundle: Bundle, tmp_path: Path, damage, name: str) -> None:
    first = logits(bundle)
    [made] = caches(tmp_path)
    whole = (made / name).stat().st_size
    damage(made / name)
    assert np.array_equal(logits(bundle), first)
    assert (made / name).stat().st_size >= whole - 9  # times and inodes in the seal may be shorter


def test_damage_that_no_time_of_change_shows_is_found_where_hashes_are_asked_for(
    bundle: Bundle, tmp_path: Path
) -> None:
    first = logits(bundle)
    [made] = caches(tmp_path)
    before = (made / "weights.bin").stat()
    flipped(made / "weights.bin")
    os.utime(made / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert np.array_equal(logits(replace(bundle, verified=True)), first)


def test_a_cache_that_was_moved_and_is_whole_is_used(bundle: Bundle, tmp_path: Path) -> None:
    logits(bundle)
    [made] = caches(tmp_path)
    os.utime(made / "weights.bin")
    inode = (made / "weights.bin").stat().st_ino
    logits(bundle)
    assert (made / "weights.bin").stat().st_ino == inode


def test_starts_at_the_same_time_leave_one_cache(bundle: Bundle, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(logits, [bundle] * 4))
    assert all(np.array_equal(each, results[0]) for each in results)
    assert len(caches(tmp_path)) == 1


def test_another_processor_makes_its_own_and_drops_the_old_one(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    logits(bundle)
    [old] = caches(tmp_path)
    monkeypatch.setattr(prepacked, "processor_identity", lambda: "another")
    logits(bundle)
    [new] = caches(tmp_path)
    assert new != old


def test_weights_of_8_bits_made_unsigned_are_another_cache(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    # Bundles of earlier versions have weights of 8 bits.
    int8 = bundle.manifest.precision == "int8"
    if int8:
        bundle = replace(bundle, manifest=replace(bundle.manifest, weight_format="int8"))
    folders = []
    for overflow in (False, True):
        monkeypatch.setattr(session, "byte_products_overflow", lambda overflow=overflow: overflow)
        logits(bundle)
        folders += caches(tmp_path)
    assert (folders[0] != folders[1]) == int8


def test_a_cache_that_cannot_be_written_is_no_error(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.isfinite(logits(bundle)).all()
