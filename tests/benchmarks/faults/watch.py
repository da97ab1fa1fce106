"""What processes hold: memory, open files and threads, all along."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.benchmarks.tables import Row

EVERY = 5.0
WARM_UP = 0.2
"""Share of the time before which nothing need be flat."""


class Watch(threading.Thread):
    """Looks at processes every few seconds and writes a line of JSON for each look."""

    def __init__(self, pids: Mapping[str, int], path: Path, further: Callable[[], Mapping[str, int]]) -> None:
        super().__init__(daemon=True)
        self._pids, self._path, self._further, self._ended = pids, path, further, threading.Event()
        self._looks: list[dict[str, dict[str, int]]] = []

    def run(self) -> None:
        """Until ``end``."""
        began = time.monotonic()
        self._path.unlink(missing_ok=True)
        while not self._ended.wait(EVERY):
            self._looks.append({name: _held(pid) for name, pid in self._pids.items()})
            look = {"seconds": round(time.monotonic() - began), **self._looks[-1], **self._further()}
            # A full disk loses the line, not the look.
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(look) + "\n")

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()

    @property
    def minutes(self) -> float:
        """How long the processes were looked at; time in which this process itself was stopped is no part of it."""
        return len(self._looks) * EVERY / 60

    def growth(self, name: str) -> Row:
        """The means of the fifths before and at the end of the time after the warm-up."""
        warm = [look[name] for look in self._looks[int(WARM_UP * len(self._looks)) :]]
        fifth = max(1, len(warm) // 5)
        row: Row = {}
        for what in ("MiB", "files", "threads"):
            first, last = (sum(look[what] for look in part) / fifth for part in (warm[:fifth], warm[-fifth:]))
            row |= {f"{what} first": round(first, 1), f"{what} last": round(last, 1)}
        return row


def _held(pid: int) -> dict[str, int]:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    return {
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") >> 20,
        "files": sum(1 for _ in (process / "fd").iterdir()),
        "threads": sum(1 for _ in (process / "task").iterdir()),
    }
