"""Calls of a graph on a GPU: copy what the host wrote, prepare the inputs, run the graph, keep its results.

A call has a fixed number of rows and fixed addresses, so that it can be recorded once and replayed with one launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.backends import Clock
from runtime.backends.cuda.graph import Tensor
from runtime.backends.cuda.memory import Gpu, Memory, Staging
from s2d_trt import names
from s2d_trt.bundle import SCRATCH_ROWS

START, BASE, WIDTH, ROWS, SOURCE, DESTINATION = range(6)
"""Offsets in the control block; ``kernels.cu`` has the same."""
Steps = Callable[[], None]


class Work:
    """Steps that are queued many times: one by one, or with one launch once their first run has recorded them."""

    def __init__(self, gpu: Gpu, steps: Steps, recordable: bool) -> None:
        self._gpu, self._steps = gpu, steps
        self._replay = None if recordable else steps

    def queue(self) -> None:
        """Queue the steps once."""
        if self._replay is None:
            # Recording may run the steps too: they read staged inputs and write rows in place, so twice is as once.
            self._replay = self._gpu.record(self._steps)
        self._replay()


class LayerInputs:
    """The staged inputs of a call through layers, and the attention mask that the device expands from them.

    ``mask`` is memory of at least ``rows * view`` bytes, which calls share.
    """

    def __init__(self, gpu: Gpu, rows: int, view: int, mask: Memory, logit_rows: int = 0) -> None:
        self._gpu, self._rows, self._view, self._mask = gpu, rows, view, mask
        self.staging = Staging(
            gpu,
            {
                "control": (np.int64, (6,)),
                "tokens": (np.int64, (rows,)),
                "positions": (np.int64, (rows,)),
                "visible": (np.bool_, (rows * max(rows, SCRATCH_ROWS),)),
                "logit_rows": (np.int64, (logit_rows,)),
            },
        )
        fields = self.staging.arrays
        self._control, self._tokens, self._positions = fields["control"], fields["tokens"], fields["positions"]
        self._visible, self.logit_rows = fields["visible"], fields["logit_rows"]
        at = self.staging.addresses
        self.control = at["control"]
        self.tokens = Tensor(at["tokens"], (1, rows))
        self.tensors = {
            names.POSITION_IDS: Tensor(at["positions"], (1, rows)),
            names.WRITE_INDEX: Tensor(at["control"], (1,)),
            names.ATTENTION_MASK: Tensor(mask.address, (rows, view)),
        }
        if logit_rows:
            self.tensors[names.LOGIT_ROWS] = Tensor(at["logit_rows"], (logit_rows,))

    def fill(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        start: int,
        base: int,
        visible: np.ndarray,
        source: int = 0,
        destination: int = 0,
    ) -> None:
        """Write a call's inputs; ``source`` and ``destination`` are rows of the store of hidden states."""
        count, width = visible.shape
        self.staging.open()
        self._control[:] = start, base, width, count, source, destination
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._visible[: count * width].reshape(count, width)[:] = visible

    def queue(self) -> None:
        """Queue the transfer and the expansion of the mask."""
        self.staging.upload()
        arguments = (self._mask.address, self.staging.addresses["visible"], self.control, self._view)
        self._gpu.launch("expand_mask", self._rows * self._view, *arguments)


@dataclass(frozen=True, slots=True)
class Staged:
    """A call whose inputs the host has written: its key among the calls, its inputs, and what queues it."""

    key: tuple[int, int, int]
    inputs: LayerInputs
    steps: Steps


class Timed:
    """Adds the time inside a ``with`` block to a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.seconds += time.perf_counter() - self._began
