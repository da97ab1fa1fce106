"""The memory that this process takes."""

from __future__ import annotations

import mmap
from pathlib import Path

from runtime.machine.memory import memory_in_use


def test_pages_that_several_mappings_share_count_once(tmp_path: Path) -> None:
    size, path = 32 * 2**20, tmp_path / "weights.bin"
    path.write_bytes(b"1" * size)
    before = memory_in_use()
    mappings = []
    with path.open("rb") as file:
        for _ in range(4):
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            assert mapped.find(b"0") == -1  # reads every page
            mappings.append(mapped)
    assert 0.9 * size < memory_in_use() - before < 1.5 * size
    for mapped in mappings:
        mapped.close()
