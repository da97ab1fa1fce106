"""A target on a GPU: logits stay there, and acceptance fetches the rows that it visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from runtime.backends import Clock, TargetLane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import LayerInputs, Timed, Work
from runtime.backends.cuda.graph import CacheForm, DeviceCache, DeviceGraph, Tensor
from runtime.backends.cuda.memory import Gpu, Memory
from s2d_trt import names
from s2d_trt.bundle import Manifest

FLOAT = 4
"""Bytes of a logit."""


class GpuTarget:
    """The loaded graph of a target. The lanes of a call run one after another."""

    lanes: tuple[int, ...] = (1,)
    device: Literal["cpu", "cuda"] = "cuda"

    def __init__(self, gpu: Gpu, manifest: Manifest, graph: DeviceGraph, backend: str) -> None:
        self.clock = Clock()
        self.timed = Timed(self.clock)
        self.location = f"{backend}, {gpu.name}"
        self.gpu, self.manifest, self.graph = gpu, manifest, graph
        self.form = CacheForm.of(manifest)
        self.buckets = Buckets(graph.max_rows, graph.edges)
        self.max_rows = graph.max_rows
        self.needs_company: bool | None = False
        self.mask = gpu.allocate(self.max_rows * self.form.slots)

    def context(self) -> GpuTargetContext:
        """A cache on the device, zeroed."""
        return GpuTargetContext(self)

    def forward(self, lanes: Sequence[TargetLane]) -> Sequence[DeviceLogits]:
        """Queue a call for each lane; each text has logits of its own."""
        with self.timed:
            return [lane.context.forward(lane) for lane in lanes]

    def lone_rows_agree(self) -> bool:
        """True: all exact calls have one number of rows."""
        return True


class GpuTargetContext:
    """Cache, calls and logits of one sequence in a target."""

    def __init__(self, engine: GpuTarget) -> None:
        self._engine, self._gpu, self._timed = engine, engine.gpu, engine.timed
        spec = engine.manifest.model
        self._vocab_size = spec.vocab_size
        self._cache = DeviceCache(self._gpu, engine.form, range(spec.num_hidden_layers))
        self._logits = DeviceLogits(self._gpu, engine.max_rows, spec.vocab_size, self._timed)
        self._calls: dict[tuple[int, int, int], tuple[LayerInputs, Work]] = {}
        self._used = False

    def forward(self, lane: TargetLane) -> DeviceLogits:
        """Queue a call, padded to a bucket.

        A row's bits depend on the number of rows in the call: ``exact_rows`` fixes that number.
        """
        form, count, asked = self._engine.form, len(lane.tokens), len(lane.logit_rows)
        rows = self._engine.buckets.fit(max(count, lane.exact_rows), form.slots - lane.start)
        # One row of logits or all of them, so that there are few kinds of calls.
        wanted = 1 if asked == 1 and not lane.exact_rows else rows
        key = rows, form.view(lane.start + rows), wanted
        inputs, work = self._calls.get(key) or self._prepare(key)
        self._used = True
        inputs.fill(lane.tokens, lane.positions, lane.start, lane.base, lane.visible)
        inputs.logit_rows[:asked] = lane.logit_rows
        work.queue()
        inputs.staging.close()
        return self._logits

    def move(self, sources: np.ndarray, start: int) -> None:
        """Queue the move."""
        with self._timed:
            self._cache.move(sources, start)

    def reset(self) -> None:
        """Queue the zeroing of the whole cache, if any of it was used."""
        if self._used:
            self._cache.clear()
            self._used = False

    def _prepare(self, key: tuple[int, int, int]) -> tuple[LayerInputs, Work]:
        rows, view, wanted = key
        graph = self._engine.graph
        inputs = LayerInputs(self._gpu, rows, view, self._engine.mask, wanted)
        past, present = self._cache.tensors(view)
        logits = Tensor(self._logits.memory.address, (wanted, self._vocab_size))
        run = graph.bind(
            rows, {names.INPUT_IDS: inputs.tokens, **inputs.tensors, **past}, {names.LOGITS: logits, **present}
        )

        def steps() -> None:
            inputs.queue()
            run()

        self._calls[key] = inputs, Work(self._gpu, steps, graph.recordable)
        return self._calls[key]


class DeviceLogits:
    """Logits on the device, and a pinned buffer for one row of them."""

    def __init__(self, gpu: Gpu, rows: int, vocab_size: int, timed: Timed) -> None:
        self._gpu, self._timed, self._row_bytes = gpu, timed, vocab_size * FLOAT
        self.memory: Memory = gpu.allocate(rows * self._row_bytes)
        self._row = gpu.pinned(self._row_bytes)
        self._array = self._row.array().view(np.float32)

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Copy a row to the host and wait for it."""
        with self._timed:
            self._gpu.copy(self._row, self.memory.part(row * self._row_bytes, self._row_bytes))
            self._gpu.wait()
        return self._array
