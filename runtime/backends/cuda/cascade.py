"""A whole depth of drafting in one launch: the deeper segments stand in conditional nodes of the CUDA graph.

After each exit's head a kernel decides, by the thresholds that the host staged, whether the next segment's node runs;
the host waits once, for the candidates of the exit that answered. Needs CUDA 12.4 or later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.cuda.call import LayerInputs, Work
from runtime.backends.cuda.memory import Staging

if TYPE_CHECKING:
    from runtime.backends.cuda.draft import GpuDraftContext

COUNT, LARGEST, THRESHOLDS, PATHS = 0, 1, 2, 16
"""Places in a decision block; ``cascade.cu`` has the same."""
MOST_EXITS = PATHS - THRESHOLDS
Key = tuple[tuple[tuple[int, int, int], ...], int]
"""The keys of the segments' calls, and the rows of the head's."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A segment's call as far as the host has written it: its key, its inputs and what queues it."""

    key: tuple[int, int, int]
    inputs: LayerInputs
    steps: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Depth:
    """The recorded graph of a depth for one combination of rows, and what it reads and gives."""

    decision: Staging
    controls: list[Staging]
    found: Staging
    work: Work


class DeviceCascade:
    """See ``runtime.backends.Cascade``."""

    def __init__(self, context: GpuDraftContext) -> None:
        self._context = context
        self._staged: list[Staged] = []
        self._depths: dict[Key, Depth] = {}

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """See ``Cascade``."""
        if segment == 0:
            self._staged.clear()
        self._staged.append(self._context.staged(segment, tokens, positions, start, base, visible))

    def run(
        self,
        start: int,
        stop: int,
        noise: np.ndarray,
        paths: np.ndarray,
        thresholds: Sequence[float],
        largest: bool,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """See ``Cascade``."""
        context, count = self._context, stop - start
        with context.timed:
            rows = context.head_rows(start, count)
            key = tuple(staged.key for staged in self._staged), rows
            depth = self._depths.get(key) or self._prepare(key, rows)
            context.upload_noise(noise)
            depth.decision.open()
            decision = depth.decision.arrays["decision"]
            decision[COUNT], decision[LARGEST] = count, largest
            decision[THRESHOLDS : THRESHOLDS + len(thresholds)] = thresholds
            decision[PATHS : PATHS + count] = paths
            for segment, control in enumerate(depth.controls):
                context.point(control, segment, start)
            depth.work.queue()
            context.wait()
        found = depth.found.arrays
        return found["tokens"][:count], found["logprobs"][:count], int(found["exit"][0])

    def _prepare(self, key: Key, rows: int) -> Depth:
        context, gpu = self._context, self._context.gpu
        segments = [staged.steps for staged in self._staged]
        decision = Staging(gpu, {"decision": (np.float64, (PATHS + rows,))})
        controls = [context.new_control() for _ in segments]
        found = context.new_candidates(rows)
        logprobs, answer = found.addresses["logprobs"], found.addresses["exit"]
        heads = [context.head_steps(rows, control, found) for control in controls]
        top_k, last = found.arrays["tokens"].shape[1], len(segments) - 1

        def ask(index: int) -> None:
            """Queue segment ``index``, the head on it, and the node that holds the rest."""
            segments[index]()
            heads[index]()
            condition = gpu.condition() if index < last else 0
            gpu.launch("decide", 1, logprobs, top_k, decision.addresses["decision"], answer, index, condition)
            if index < last:
                gpu.when(condition, lambda: ask(index + 1))

        def steps() -> None:
            decision.upload()
            ask(0)
            found.download()

        self._depths[key] = Depth(decision, controls, found, Work(gpu, steps, recordable=True))
        return self._depths[key]
