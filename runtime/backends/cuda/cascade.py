"""One launch for a whole depth of drafting: conditional nodes of a CUDA graph hold the deeper segments.

After each exit's head a kernel compares the confidence with the threshold that the host wrote, and enables the node of
the next segment or not. The host waits once, for the candidates of the exit that answers. Needs CUDA 12.4 or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends import HeadLane, Lane
from runtime.backends.cuda.call import Work
from runtime.backends.cuda.head import point
from runtime.backends.cuda.memory import Staging
from runtime.backends.cuda.pool import Key, Prepared

if TYPE_CHECKING:
    from runtime.backends.cuda.draft import GpuDraft, GpuDraftContext

COUNT, LARGEST, THRESHOLDS, PATHS = 0, 1, 2, 16
"""Offsets in a decision block; ``cascade.cu`` has the same."""
MOST_EXITS = PATHS - THRESHOLDS
DepthKey = tuple[tuple[Key, ...], int]
"""The keys of the segments' calls, and the rows of the head's."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The recorded graph of a depth for one combination of rows, its inputs and its results."""

    decision: Staging
    heads: list[Staging]
    candidates: Staging
    work: Work


Depths = dict[DepthKey, Depth]


class DeviceCascade:
    """The cascade of one text."""

    def __init__(self, engines: GpuDraft, context: GpuDraftContext) -> None:
        self._engines, self._context = engines, context
        self._staged: list[Prepared] = []

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Write the inputs of a segment's call; segment 0 begins a depth."""
        if segment == 0:
            self._staged.clear()
        with self._engines.timed:
            lane = Lane(self._context, tokens, positions, start, base, visible)
            self._staged.append(self._engines.stage(segment, lane))

    def run(
        self,
        start: int,
        stop: int,
        noise: np.ndarray,
        paths: np.ndarray,
        thresholds: Sequence[float],
        largest: bool,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Launch the graph of this depth, recorded at its first run, and wait for its candidates."""
        engines, count = self._engines, stop - start
        with engines.timed:
            rows = engines.head.buckets.fit(count, engines.max_head_rows)
            key = tuple(staged.key for staged in self._staged), rows
            depth = self._context.pool.depths.get(key) or self._prepare(key, rows)
            self._context.noise.upload(noise)
            depth.decision.open()
            decision = depth.decision.arrays["decision"]
            decision[COUNT], decision[LARGEST] = count, largest
            decision[THRESHOLDS : THRESHOLDS + len(thresholds)] = thresholds
            decision[PATHS : PATHS + count] = paths
            for segment, inputs in enumerate(depth.heads):
                point(inputs, [HeadLane(self._context, segment, start, stop, noise)])
            depth.work.queue()
            engines.gpu.wait()
        result = depth.candidates.arrays
        return result["tokens"][:count], result["logprobs"][:count], int(result["exit"][0])

    def _prepare(self, key: DepthKey, rows: int) -> Depth:
        head, gpu, pool = self._engines.head, self._engines.gpu, self._context.pool
        segments = [staged.steps for staged in self._staged]
        decision = Staging(gpu, {"decision": (np.float64, (PATHS + rows,))})
        inputs = [head.new_inputs(rows) for _ in segments]
        candidates = head.new_candidates(rows)
        logprobs, answer = candidates.addresses["logprobs"], candidates.addresses["exit"]
        heads = [head.steps(each, candidates, pool.store, pool.noise) for each in inputs]
        top_k, last = candidates.arrays["tokens"].shape[1], len(segments) - 1

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
            candidates.download()

        pool.depths[key] = Depth(decision, inputs, candidates, Work(gpu, steps, recordable=True))
        return pool.depths[key]
