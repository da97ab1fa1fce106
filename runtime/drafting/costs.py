"""What a call costs on this machine: milliseconds of each draft segment, the head and the target, by rows."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from runtime.decoding.noise import Noise
from runtime.drafting.sorted_draft import SortedDraft
from runtime.drafting.tree import Tree
from runtime.machine.cache import cache_directory
from runtime.targets.interface import TargetModel
from s2d_trt import __version__

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
MOST_ROWS = 256
CONTEXT = 64
REPEATS = 5
BUDGET = 3.0
"""StepTimes after which a measurement of one engine stops repeating itself."""


@dataclass(frozen=True)
class Costs:
    """Milliseconds per call at ``WIDTHS`` rows: ``verify`` of the target, ``segments`` and ``head`` of the draft."""

    verify: tuple[float, ...]
    segments: tuple[tuple[float, ...], ...]
    head: tuple[float, ...]

    @cached_property
    def of_verify(self) -> list[float]:
        """Milliseconds to verify so many rows, by their number."""
        return _by_rows(self.verify)

    @cached_property
    def _of_segment(self) -> list[list[float]]:
        return [_by_rows(costs) for costs in self.segments]

    @cached_property
    def _of_head(self) -> list[float]:
        return _by_rows(self.head)

    def of_exit(self, index: int, waiting: int, rows: int) -> float:
        """Milliseconds to run ``waiting`` rows through segment ``index`` and ``rows`` of them through the head."""
        segment = self._of_segment[index]
        calls, rest = divmod(waiting, MOST_ROWS)
        return calls * segment[-1] + segment[rest] + self._of_head[rows]


def _by_rows(costs: tuple[float, ...]) -> list[float]:
    """Costs of 0 to ``MOST_ROWS`` rows: along a line between the widths, beyond the last along the last piece."""
    rows = np.arange(MOST_ROWS + 1)
    slope = (costs[-1] - costs[-2]) / (WIDTHS[-1] - WIDTHS[-2])
    found = np.interp(rows, WIDTHS, costs) + slope * np.maximum(0, rows - WIDTHS[-1])
    return [0.0, *found[1:].tolist()]


def measure(target: TargetModel, draft: SortedDraft) -> Costs:
    """Time every engine at every width, on a text of ``CONTEXT`` tokens; about a second for small models."""
    return Costs(_measure_target(target), *_measure_draft(draft))


def load_costs(target: TargetModel, draft: SortedDraft) -> Costs:
    """What was measured before on this machine for these bundles, else what is measured now and kept."""
    path = _cache_file(target, draft)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Costs(tuple(data["verify"]), tuple(map(tuple, data["segments"])), tuple(data["head"]))
    except (OSError, ValueError, KeyError, TypeError):
        costs = measure(target, draft)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(costs)), encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        pass  # a cache that cannot be written only costs the next start its second
    return costs


def _cache_file(target: TargetModel, draft: SortedDraft) -> Path:
    parts = [__version__, target.identity, draft.identity]
    return cache_directory() / "costs" / (hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32] + ".json")


def _measure_target(target: TargetModel) -> tuple[float, ...]:
    slot = target.lease()
    slot.prefill([0] * min(CONTEXT, target.max_length // 2))

    def verify(rows: int) -> float:
        rows = min(rows, target.max_rows)
        tree = Tree(np.zeros(rows, np.int64), np.arange(-1, rows - 1), np.arange(rows), np.zeros(rows))
        started = time.perf_counter()
        slot.verify(tree)[0]  # the walk reads rows; on a GPU that waits for the call
        return time.perf_counter() - started

    try:
        return _by_width(verify)
    finally:
        target.release(slot)


def _measure_draft(draft: SortedDraft) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    slot = draft.lease()
    # Enough text for the head's widest call, and room behind it for the segments'.
    context = min(CONTEXT, draft.max_length // 2)
    slot.prefill([0] * context)
    noise = Noise(0, 0.0, draft.vocab_size).row(0)

    def run(segment: int, rows: int) -> float:
        slot.truncate(context)
        slot.enqueue([0] * min(rows, draft.max_length - context))
        for before in range(segment):
            slot.flush(before)
        slot.wait()
        started = time.perf_counter()
        slot.flush(segment)
        slot.wait()
        return time.perf_counter() - started

    def answer(rows: int) -> float:
        started = time.perf_counter()
        slot.candidates(0, min(rows, context, draft.engines.max_head_rows), noise)
        return time.perf_counter() - started

    try:
        segments = tuple(_by_width(partial(run, segment)) for segment in range(len(draft.exits)))
        return segments, _by_width(answer)
    finally:
        draft.release(slot)


def _by_width(call: Callable[[int], float]) -> tuple[float, ...]:
    """Milliseconds of ``call`` at each width: the fastest of a few, for what disturbs a call only adds to it."""
    began, found = time.perf_counter(), []
    for rows in WIDTHS:
        call(rows)  # the first one of a width prepares buffers
        seconds = [call(rows)]
        while len(seconds) < REPEATS and time.perf_counter() - began < BUDGET:
            seconds.append(call(rows))
        found.append(min(seconds) * 1e3)
    # More rows never cost less, save for noise.
    return tuple(np.maximum.accumulate(found).tolist())
