"""Calls of a graph on a GPU: copy what the host wrote, prepare the inputs, run the graph, keep its results.

A call has a fixed number of rows and fixed addresses, so that it can be recorded once and replayed with one launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from runtime.backends import Clock, Lane
from runtime.backends.cuda.graph import Tensor
from runtime.backends.cuda.memory import Gpu, Memory, Staging
from runtime.backends.cuda.window import Shape
from s2d_trt import names
from s2d_trt.manifest import SCRATCH_ROWS

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

    ``mask`` is memory for the mask, which calls share. ``packs`` says whether the graph takes several lanes, whose rows
    are packed (see ``export.layout``).
    """

    def __init__(self, gpu: Gpu, shape: Shape, mask: Memory, packs: bool, logit_rows: int = 0) -> None:
        rows, lanes, lane_rows = shape.rows, shape.window.count, shape.lane_rows
        self._gpu, self._shape, self._mask = gpu, shape, mask
        self.staging = Staging(
            gpu,
            {
                "control": (np.int64, (lanes, 4)),
                names.WRITE_INDEX: (np.int64, (lanes,)),
                names.INPUT_IDS: (np.int64, (1, rows)),
                names.POSITION_IDS: (np.int64, (lanes, lane_rows)),
                names.ATTENTION_ROWS: (np.int64, (lanes, lane_rows)),
                names.PACKED_ROWS: (np.int64, (rows,)),
                names.LOGIT_ROWS: (np.int64, (logit_rows,)),
                "sources": (np.int64, (rows,)),
                "destinations": (np.int64, (rows,)),
                "visible": (np.bool_, (rows * max(lane_rows, SCRATCH_ROWS),)),
            },
        )
        fields = self.staging.arrays
        self._control, self._visible = fields["control"], fields["visible"]
        self._tokens, self._positions = fields[names.INPUT_IDS][0], fields[names.POSITION_IDS]
        self._write_index, self.logit_rows = fields[names.WRITE_INDEX], fields[names.LOGIT_ROWS]
        self._attention_rows, self._packed_rows = fields[names.ATTENTION_ROWS], fields[names.PACKED_ROWS]
        self.sources, self.destinations = fields["sources"], fields["destinations"]
        self.tokens = self._staged(names.INPUT_IDS)
        taken = [names.POSITION_IDS, names.WRITE_INDEX, *([names.LOGIT_ROWS] if logit_rows else [])]
        if packs:
            taken += [names.ATTENTION_ROWS, names.PACKED_ROWS]
        self.tensors = {name: self._staged(name) for name in taken}
        visible = (lanes, 1, lane_rows, shape.view) if packs else (rows, shape.view)
        self.tensors[names.ATTENTION_MASK] = Tensor(mask.address, visible)

    def _staged(self, name: str) -> Tensor:
        return Tensor(self.staging.addresses[name], self.staging.arrays[name].shape)

    def fill(self, lanes: Sequence[Lane | None], starts: Sequence[int]) -> list[int]:
        """Write a call's inputs, which has a lane, or none, for each text of its window; each one's first packed row.

        A text without a lane gets one packed row of its own, a dummy, and no row of another text: what a text reads
        never depends on others, not even where one of them overflows.
        """
        self.staging.open()
        first_rows, row, shown = [], 0, 0
        for index, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
            count = 1 if lane is None else len(lane.tokens)
            packed = slice(row, row + count)
            self._tokens[packed] = 0 if lane is None else lane.tokens
            self._positions[index, :count] = 0 if lane is None else lane.positions
            self._positions[index, count:] = self._positions[index, count - 1]
            counted = np.arange(count)
            self._attention_rows[index, :count] = row + counted
            self._attention_rows[index, count:] = row + count - 1
            self._packed_rows[packed] = index * self._shape.lane_rows + counted
            self._write_index[index] = start
            self._control[index] = 0
            if lane is not None:
                size = lane.visible.size
                self._control[index] = lane.base, lane.visible.shape[1], count, shown
                self._visible[shown : shown + size].reshape(lane.visible.shape)[:] = lane.visible
                shown += size
            first_rows.append(row)
            row += count
        self._packed_rows[row:] = 0
        return first_rows

    def queue(self) -> None:
        """Queue the transfer and the expansion of the mask."""
        self.staging.upload()
        shape, at = self._shape, self.staging.addresses
        threads = shape.window.count * shape.lane_rows * shape.view
        arguments = (self._mask.address, at["visible"], at["control"], shape.lane_rows, shape.view)
        self._gpu.launch("expand_mask", threads, *arguments)


class Timed:
    """Adds the time inside a ``with`` block to a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.seconds += time.perf_counter() - self._began
