"""What watches a soak outlives the faults."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.benchmarks.faults import watch


def test_a_disk_that_takes_no_lines_does_not_end_the_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.001)
    looks = threading.Semaphore(0)

    def further() -> dict[str, int]:
        looks.release()
        return {}

    watching = watch.Watch({"this": os.getpid()}, tmp_path / "missing" / "looks.jsonl", further)
    watching.start()
    assert all(looks.acquire(timeout=10) for _ in range(12))
    watching.end()
    assert watching.growth("this")["files last"] > 0  # type: ignore[operator]
