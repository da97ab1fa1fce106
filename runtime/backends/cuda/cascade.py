"""One launch for a whole depth of drafting: conditional nodes of a CUDA graph hold the deeper segments.

After each exit's head a kernel compares the confidence with the threshold that the host wrote, and enables the node of
the next segment or not. The host waits once, for the candidates of the exit that answers. Needs CUDA 12.4 or later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.backends.cuda.call import Staged, Timed, Work
from runtime.backends.cuda.head import HeadCalls
from runtime.backends.cuda.memory import Gpu, Staging

COUNT, LARGEST, THRESHOLDS, PATHS = 0, 1, 2, 16
"""Offsets in a decision block; ``cascade.cu`` has the same."""
MOST_EXITS = PATHS - THRESHOLDS
Key = tuple[tuple[tuple[int, int, int], ...], int]
"""The keys of the segments' calls, and the rows of the head's."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The recorded graph of a depth for one combination of rows, its inputs and its results."""

    decision: Staging
    controls: list[Staging]
    candidates: Staging
    work: Work


class DeviceCascade:
    """The cascade of one sequence. ``stage`` writes the inputs of a segment's call."""

    def __init__(self, gpu: Gpu, head: HeadCalls, stage: Callable[..., Staged], timed: Timed) -> None:
        self._gpu, self._head, self._stage, self._timed = gpu, head, stage, timed
        self._staged: list[Staged] = []
        self._depths: dict[Key, Depth] = {}

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Write the inputs of a segment's call; segment 0 begins a depth."""
        if segment == 0:
            self._staged.clear()
        with self._timed:
            self._staged.append(self._stage(segment, tokens, positions, start, base, visible))

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
        head, count = self._head, stop - start
        with self._timed:
            rows = head.rows(start, count)
            key = tuple(staged.key for staged in self._staged), rows
            depth = self._depths.get(key) or self._prepare(key, rows)
            head.upload_noise(noise)
            depth.decision.open()
            decision = depth.decision.arrays["decision"]
            decision[COUNT], decision[LARGEST] = count, largest
            decision[THRESHOLDS : THRESHOLDS + len(thresholds)] = thresholds
            decision[PATHS : PATHS + count] = paths
            for segment, control in enumerate(depth.controls):
                head.point(control, segment, start)
            depth.work.queue()
            self._gpu.wait()
        result = depth.candidates.arrays
        return result["tokens"][:count], result["logprobs"][:count], int(result["exit"][0])

    def _prepare(self, key: Key, rows: int) -> Depth:
        head, gpu = self._head, self._gpu
        segments = [staged.steps for staged in self._staged]
        decision = Staging(gpu, {"decision": (np.float64, (PATHS + rows,))})
        controls = [head.new_control() for _ in segments]
        candidates = head.new_candidates(rows)
        logprobs, answer = candidates.addresses["logprobs"], candidates.addresses["exit"]
        heads = [head.steps(rows, control, candidates) for control in controls]
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

        self._depths[key] = Depth(decision, controls, candidates, Work(gpu, steps, recordable=True))
        return self._depths[key]
