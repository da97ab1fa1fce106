"""A draft's head on a GPU: it reads rows of hidden states where they are, and the host gets only the candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import SOURCE, Steps
from runtime.backends.cuda.graph import WORD, DeviceGraph, Tensor
from runtime.backends.cuda.memory import Gpu, Memory, Staging
from s2d_trt import names
from s2d_trt.bundle import Manifest


@dataclass(frozen=True, slots=True)
class Head:
    """The loaded graph. ``slots`` rows of ``row_bytes`` in a store belong to each segment; calls copy to ``source``."""

    gpu: Gpu
    graph: DeviceGraph
    manifest: Manifest
    buckets: Buckets
    slots: int
    row_bytes: int
    source: Memory


class HeadCalls:
    """What calls of the head on one sequence need: its ``store`` of hidden states, and its row of noise."""

    def __init__(self, head: Head, store: Memory) -> None:
        self._head, self._store = head, store
        self._noise = Staging(head.gpu, {"noise": (np.float32, (1, head.manifest.model.vocab_size))})
        self._noise_row: np.ndarray | None = None

    def rows(self, start: int, count: int) -> int:
        """Rows of the call for ``count`` rows from ``start`` on, padding included."""
        return self._head.buckets.fit(count, self._head.slots - start)

    def upload_noise(self, noise: np.ndarray) -> None:
        """Queue the transfer of a row of noise, unless it is on the device already."""
        if noise is self._noise_row:
            return
        self._noise.open()
        row = self._noise.arrays["noise"][0]
        known = min(len(noise), len(row))
        row[:known] = noise[:known]
        row[known:] = -np.inf
        self._noise.upload()
        self._noise.close()
        self._noise_row = noise

    def forget_noise(self) -> None:
        """Let go of the row of noise that was uploaded last."""
        self._noise_row = None

    def new_control(self) -> Staging:
        """A control block that says which rows a call reads."""
        return Staging(self._head.gpu, {"control": (np.int64, (6,))})

    def point(self, control: Staging, segment: int, start: int) -> None:
        """Let a call read what ``segment`` wrote at row ``start`` and after."""
        control.open()
        control.arrays["control"][SOURCE] = segment * self._head.slots + start

    def new_candidates(self, rows: int) -> Staging:
        """Memory for ``tokens`` and ``logprobs`` ``[rows, head_top_k]``, and the index of the ``exit``."""
        shape = (rows, self._head.manifest.head_top_k)
        return Staging(
            self._head.gpu, {"tokens": (np.int64, shape), "logprobs": (np.float32, shape), "exit": (np.int64, (1,))}
        )

    def steps(self, rows: int, control: Staging, candidates: Staging) -> Steps:
        """What queues a call on the ``rows`` rows that ``control`` names; its result stays on the device."""
        head, spec, shape = self._head, self._head.manifest.model, candidates.arrays["tokens"].shape
        run = head.graph.bind(
            rows,
            {
                names.HIDDEN_STATES: Tensor(head.source.address, (1, rows, spec.hidden_size)),
                names.NOISE: Tensor(self._noise.addresses["noise"], (1, spec.vocab_size)),
            },
            {
                names.TOP_TOKENS: Tensor(candidates.addresses["tokens"], shape),
                names.TOP_LOGPROBS: Tensor(candidates.addresses["logprobs"], shape),
            },
        )
        words = head.row_bytes // WORD
        fetch = (head.source.address, self._store.address, control.addresses["control"], words)

        def steps() -> None:
            control.upload()
            head.gpu.launch("fetch_rows", rows * words, *fetch)
            run()

        return steps
