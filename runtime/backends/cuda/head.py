"""A draft's head on a GPU: it reads rows of hidden states where they are, and the host gets only the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.backends import HeadLane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import Steps
from runtime.backends.cuda.graph import WORD, DeviceGraph, Tensor
from runtime.backends.cuda.memory import Gpu, Memory, Staging
from s2d_trt import names
from s2d_trt.manifest import Manifest

FLOAT = 4
"""Bytes of a number of noise."""


@dataclass(frozen=True, slots=True)
class Head:
    """The loaded graph. ``row_bytes`` is the size of a row of hidden states; calls copy rows to ``source``.

    ``lanes`` is the number of rows of noise that the graph takes, one for each text of a pool.
    """

    gpu: Gpu
    graph: DeviceGraph
    manifest: Manifest
    buckets: Buckets
    lanes: int
    row_bytes: int
    source: Memory

    def new_noise(self) -> Memory:
        """Memory for one row of noise for each text."""
        return self.gpu.allocate(self.lanes * self.manifest.model.vocab_size * FLOAT)

    def new_inputs(self, rows: int) -> Staging:
        """The rows of a store that a call reads, and for each the row of noise that is added."""
        return Staging(self.gpu, {"sources": (np.int64, (rows,)), "noise_rows": (np.int64, (rows,))})

    def new_candidates(self, rows: int) -> Staging:
        """Memory for ``tokens`` and ``logprobs`` ``[rows, head_top_k]``, and the index of the ``exit``."""
        shape = (rows, self.manifest.head_top_k)
        return Staging(
            self.gpu, {"tokens": (np.int64, shape), "logprobs": (np.float32, shape), "exit": (np.int64, (1,))}
        )

    def steps(self, inputs: Staging, candidates: Staging, store: Memory, noise: Memory) -> Steps:
        """What queues a call on the rows of ``store`` that ``inputs`` names; its result stays on the device."""
        spec, shape = self.manifest.model, candidates.arrays["tokens"].shape
        rows = shape[0]
        tensors = {
            names.HIDDEN_STATES: Tensor(self.source.address, (1, rows, spec.hidden_size)),
            names.NOISE: Tensor(noise.address, (self.lanes, spec.vocab_size)),
        }
        if self.lanes > 1:
            tensors[names.NOISE_ROWS] = Tensor(inputs.addresses["noise_rows"], (rows,))
        run = self.graph.bind(
            rows,
            tensors,
            {
                names.TOP_TOKENS: Tensor(candidates.addresses["tokens"], shape),
                names.TOP_LOGPROBS: Tensor(candidates.addresses["logprobs"], shape),
            },
        )
        words = self.row_bytes // WORD
        fetch = (self.source.address, store.address, inputs.addresses["sources"], words)

        def steps() -> None:
            inputs.upload()
            self.gpu.launch("fetch_rows", rows * words, *fetch)
            run()

        return steps


def point(inputs: Staging, lanes: Sequence[HeadLane]) -> None:
    """Let a call read the rows of these lanes, which are texts of one pool."""
    inputs.open()
    sources, noise_rows, row = inputs.arrays["sources"], inputs.arrays["noise_rows"], 0
    for lane in lanes:
        rows = slice(row, row + lane.stop - lane.start)
        first = lane.context.pool.row(lane.context.text, lane.segment)
        sources[rows] = np.arange(first + lane.start, first + lane.stop)
        noise_rows[rows] = lane.context.text
        row = rows.stop
    sources[row:] = noise_rows[row:] = 0


class NoiseRow:
    """A text's row of noise; it is transferred only if it is another array than at the last call."""

    def __init__(self, gpu: Gpu, noise: Memory, text: int, vocab_size: int) -> None:
        size = vocab_size * FLOAT
        self._gpu, self._host, self._device = gpu, gpu.pinned(size), noise.part(text * size, size)
        self._row = self._host.array().view(np.float32)
        self._last: np.ndarray | None = None

    def upload(self, noise: np.ndarray) -> None:
        """Queue the transfer, unless the row is on the device already."""
        if noise is self._last:
            return
        # Every call of the head is waited for, so the last transfer has read the row.
        known = min(len(noise), len(self._row))
        self._row[:known] = noise[:known]
        self._row[known:] = -np.inf
        self._gpu.copy(self._device, self._host)
        self._last = noise

    def forget(self) -> None:
        """Let go of the row that was transferred last."""
        self._last = None
