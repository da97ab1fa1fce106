"""A target on a GPU: logits stay there, and acceptance fetches the rows that it visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from runtime.backends import Clock, TargetLane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import LayerInputs, Timed, Work
from runtime.backends.cuda.graph import CacheForm, DeviceGraph, Tensor
from runtime.backends.cuda.memory import Gpu, Memory, Staging
from runtime.backends.cuda.pool import Key, Member, Pool, Prepared, cut
from runtime.backends.cuda.window import Shape
from s2d_trt import names
from s2d_trt.manifest import SCRATCH_ROWS, Manifest

FLOAT = 4
"""Bytes of a logit."""


class GpuTarget:
    """The loaded graph of a target. Exact lanes run one after another, each in a call of a fixed number of rows."""

    device: Literal["cpu", "cuda"] = "cuda"

    def __init__(self, gpu: Gpu, manifest: Manifest, graph: DeviceGraph, backend: str) -> None:
        self.clock = Clock()
        self.timed = Timed(self.clock)
        self.location = f"{backend}, {gpu.name}"
        self.gpu, self.form = gpu, CacheForm.of(manifest)
        self.lanes = manifest.lanes if self.form.lanes > 1 else (1,)
        self.max_rows = min(graph.max_rows, SCRATCH_ROWS)
        self.needs_company: bool | None = False
        self.vocab_size = manifest.model.vocab_size
        self._row_bytes = self.vocab_size * FLOAT
        self._graph, self._layers = graph, range(manifest.model.num_hidden_layers)
        self._buckets = Buckets(graph.max_rows, graph.edges)
        self._pools: list[Pool] = []
        # One stream runs all calls in order, so they share what no call leaves to the next.
        self._mask = gpu.allocate(self.form.lanes * self.max_rows * self.form.slots)
        self._logits = self._kept = gpu.allocate(graph.max_rows * self._row_bytes)

    def context(self) -> GpuTargetContext:
        """A cache on the device, zeroed."""
        if not self._pools or self._pools[-1].is_full:
            self._pools.append(Pool(self.gpu, self.form, [self._layers]))
        return GpuTargetContext(self, self._pools[-1])

    def lone_rows_agree(self) -> bool:
        """True: all exact calls have one number of rows."""
        return True

    def open_lanes(self, texts: int) -> None:
        """Do nothing: one engine serves any number of texts, and a shape's CUDA graph is captured at its first call."""

    def forward(self, lanes: Sequence[TargetLane]) -> Sequence[DeviceLogits]:
        """Queue the calls that the lanes take, and keep the logits of all."""
        with self.timed:
            calls, found, row = cut(0, lanes, self._buckets), {}, 0
            memory = self._logits if len(calls) == 1 else self._memory_for(sum(len(lane.logit_rows) for lane in lanes))
            for chosen, shape in calls:
                first = row
                self._queue(chosen, shape)
                for lane in chosen:
                    found[id(lane)] = DeviceLogits(self, lane.context, memory, row)
                    row += len(lane.logit_rows)
                if len(calls) > 1:  # the next call overwrites them
                    size = (row - first) * self._row_bytes
                    self.gpu.copy(memory.part(first * self._row_bytes, size), self._logits.part(0, size))
            return [found[id(lane)] for lane in lanes]

    def _memory_for(self, rows: int) -> Memory:
        """Memory for the logits of several calls."""
        if self._kept is self._logits or self._kept.size < rows * self._row_bytes:
            self._kept = self.gpu.allocate(rows * self._row_bytes)
        return self._kept

    def _queue(self, lanes: Sequence[TargetLane], shape: Shape) -> None:
        pool, asked = lanes[0].context.pool, sum(len(lane.logit_rows) for lane in lanes)
        # One row of logits or all of them, so that there are few kinds of calls.
        key = 0, shape, 1 if asked == 1 and not lanes[0].exact_rows else shape.rows
        call = pool.calls.get(key) or self._prepare(pool, key)
        first_rows = pool.write(0, lanes, call)
        wanted = [first + lane.logit_rows for first, lane in zip(first_rows, lanes, strict=True)]
        call.inputs.logit_rows[:asked] = np.concatenate(wanted)
        call.work.queue()
        call.inputs.staging.close()

    def _prepare(self, pool: Pool, key: Key) -> Prepared:
        _, shape, wanted = key
        inputs = LayerInputs(self.gpu, shape, self._mask, self.form.lanes > 1, wanted)
        past, present = pool.caches[0].tensors(shape.window, shape.view)
        logits = Tensor(self._logits.address, (wanted, self.vocab_size))
        run = self._graph.bind(
            shape.rows, {names.INPUT_IDS: inputs.tokens, **inputs.tensors, **past}, {names.LOGITS: logits, **present}
        )

        def steps() -> None:
            inputs.queue()
            run()

        pool.calls[key] = Prepared(key, inputs, steps, Work(self.gpu, steps, self._graph.recordable))
        return pool.calls[key]


class GpuTargetContext(Member):
    """One text's cache, and pinned memory for a row of its logits."""

    def __init__(self, engine: GpuTarget, pool: Pool) -> None:
        super().__init__(pool)
        self._timed = engine.timed
        self._moves = Staging(engine.gpu, {"move": (np.int64, (3 + SCRATCH_ROWS,))})
        self.row = engine.gpu.pinned(engine.vocab_size * FLOAT)

    def move(self, sources: np.ndarray, start: int) -> None:
        """Queue the move."""
        with self._timed:
            self.pool.caches[0].move(self.text, self._moves, sources, start)

    def reset(self) -> None:
        """Queue the zeroing of the text's whole cache, if any of it was used."""
        self.pool.reset(self.text)


class DeviceLogits:
    """The logits of one text in ``memory`` on the device, from row ``first`` on."""

    def __init__(self, engine: GpuTarget, context: GpuTargetContext, memory: Memory, first: int) -> None:
        self._engine, self._row, self._memory, self._first = engine, context.row, memory, first

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Copy a row to the host and wait for it."""
        engine, size = self._engine, self._row.size
        with engine.timed:
            engine.gpu.copy(self._row, self._memory.part((self._first + row) * size, size))
            engine.gpu.wait()
        return self._row.array().view(np.float32)
