"""What cannot fit the memory is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.machine.memory import memory_limit
from s2d_trt import memory
from s2d_trt.errors import CapacityError

MEMINFO = "MemTotal:  900 kB\nMemAvailable:  500 kB\nSwapFree:  12 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 512 KiB, and a process in a control group of each version without a limit."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "own").write_text("4:cpu,memory:/outer/inner\n3:cpuset:/\n0::/slice\n")
    for name, folder in (("_MEMINFO", "meminfo"), ("_OWN_GROUPS", "own"), ("_GROUPS", "groups")):
        monkeypatch.setattr(memory, name, tmp_path / folder)
    group(tmp_path / "groups" / "slice", "max", ("memory.max", "memory.current", "file"), 0, 0)
    return tmp_path


def group(folder: Path, limit: int | str, names: tuple[str, str, str], used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


def test_what_is_free_or_can_be_freed_is_there(machine: Path) -> None:
    assert memory.available_memory() == 512 * 1024


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("slice", ("memory.max", "memory.current", "file")),
        (".", ("memory.max", "memory.current", "file")),
        ("memory/outer/inner", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")),
        ("memory/outer", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")),
    ],
)
def test_a_container_may_use_what_its_limit_leaves_beside_file_pages(
    machine: Path, folder: str, names: tuple[str, str, str]
) -> None:
    group(machine / "groups" / folder, 8192, names, used=5000, cache=1000)
    assert memory.available_memory() == 8192 - 4000
    assert memory_limit() == 8192


def test_what_cannot_fit_is_refused_with_both_sizes(machine: Path) -> None:
    memory.check_memory(512 * 1024, "this")
    with pytest.raises(CapacityError, match=r"this needs 1\.0 MiB of memory and 0\.5 MiB are free here"):
        memory.check_memory(2**20, "this")


def test_where_nothing_is_known_nothing_is_refused(machine: Path) -> None:
    (machine / "meminfo").write_text("")
    assert memory.available_memory() is None
    memory.check_memory(2**60, "this")
