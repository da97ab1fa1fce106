"""What cannot fit the memory is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2d_trt import memory
from s2d_trt.errors import CapacityError

MEMINFO = "MemTotal:  900 kB\nMemAvailable:  500 kB\nSwapFree:  12 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 512 KiB, whose container has no limit."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", (tmp_path / "max", tmp_path / "none"))
    return tmp_path


def test_what_is_free_or_can_be_freed_is_there(machine: Path) -> None:
    assert memory.available_memory() == 512 * 1024


def test_a_container_may_use_no_more_than_its_limit(machine: Path) -> None:
    (machine / "max").write_text("4096\n")
    assert memory.available_memory() == 4096


def test_what_cannot_fit_is_refused_with_both_sizes(machine: Path) -> None:
    memory.check_memory(512 * 1024, "this")
    with pytest.raises(CapacityError, match=r"this needs 1\.0 MiB of memory and 0\.5 MiB are free here"):
        memory.check_memory(2**20, "this")


def test_where_nothing_is_known_nothing_is_refused(machine: Path) -> None:
    (machine / "meminfo").write_text("")
    assert memory.available_memory() is None
    memory.check_memory(2**60, "this")
