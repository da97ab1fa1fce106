"""A draft on a GPU: hidden states stay there, and while drafting the host reads back nothing but candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.backends import Candidates, Cascade, Clock, HeadLane, Lane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import LayerInputs, Timed, Work
from runtime.backends.cuda.cascade import MOST_EXITS, Depths, DeviceCascade
from runtime.backends.cuda.graph import ELEMENT_BYTES, WORD, CacheForm, DeviceGraph, Tensor, grown
from runtime.backends.cuda.head import Head, NoiseRow, point
from runtime.backends.cuda.memory import Gpu, Staging
from runtime.backends.cuda.pool import Key, Member, Pool, Prepared, by_pool, cut
from runtime.backends.cuda.window import Shape
from s2d_trt import names
from s2d_trt.manifest import SCRATCH_ROWS, Manifest


class GpuDraft:
    """The loaded graphs of a draft. ``cascades`` asks that the device decide which exit answers."""

    def __init__(
        self,
        gpu: Gpu,
        manifest: Manifest,
        segments: list[DeviceGraph],
        head: DeviceGraph,
        backend: str,
        cascades: bool = False,
    ) -> None:
        self.clock = Clock()
        self.timed = Timed(self.clock)
        self.location = f"{backend}, {gpu.name}"
        self.gpu, self.form = gpu, CacheForm.of(manifest)
        self.lanes = manifest.lanes if self.form.lanes > 1 else (1,)
        packed = min(segment.max_rows for segment in segments)
        self.max_rows = min(packed, SCRATCH_ROWS)
        self.max_head_rows = min(head.max_rows, self.max_rows)
        self.row_bytes = manifest.model.hidden_size * ELEMENT_BYTES[manifest.precision]
        self._hidden_size, self._vocab_size = manifest.model.hidden_size, manifest.model.vocab_size
        self._segments = segments
        bounds = zip((0, *manifest.exits[:-1]), manifest.exits, strict=True)
        self._layers = [range(start, stop) for start, stop in bounds]
        self._buckets = Buckets(packed, tuple({edge for segment in segments for edge in segment.edges}))
        self._cascades = cascades and len(segments) <= MOST_EXITS
        self._pools: list[DraftPool] = []
        # One stream runs all calls in order, so they share what no call leaves to the next.
        self._mask = gpu.allocate(self.form.lanes * self.max_rows * self.form.slots)
        self._source, self._result = (gpu.allocate(packed * self.row_bytes) for _ in range(2))
        head_buckets = Buckets(self.max_head_rows, head.edges)
        self.head = Head(gpu, head, manifest, head_buckets, self.form.lanes, self.row_bytes, self._source)

    @property
    def cascades(self) -> bool:
        """Whether the device decides which exit answers; that needs graphs that can be recorded."""
        return self._cascades and all(graph.recordable for graph in (*self._segments, self.head.graph))

    def context(self) -> GpuDraftContext:
        """Caches and hidden states on the device, zeroed."""
        if not self._pools or self._pools[-1].is_full:
            self._pools.append(DraftPool(self.gpu, self.form, self._layers, self.row_bytes, self.head))
        return GpuDraftContext(self, self._pools[-1], self._vocab_size)

    def open_lanes(self, texts: int) -> None:
        """Do nothing: one engine serves any number of texts, and a shape's CUDA graph is captured at its first call."""

    def forward(self, segment: int, lanes: Sequence[Lane]) -> None:
        """Queue the calls that the lanes take; their hidden states go to the store."""
        with self.timed:
            for chosen, shape in cut(segment, lanes, self._buckets):
                call = self._write(segment, chosen, shape)
                call.work.queue()
                call.inputs.staging.close()

    def stage(self, segment: int, lane: Lane) -> Prepared:
        """Write the inputs of a call with one lane."""
        ((lanes, shape),) = cut(segment, [lane], self._buckets)
        return self._write(segment, lanes, shape)

    def _write(self, segment: int, lanes: Sequence[Lane], shape: Shape) -> Prepared:
        pool, key = lanes[0].context.pool, (segment, shape, 0)
        call: Prepared = pool.calls.get(key) or self._prepare(pool, key)
        inputs = call.inputs
        first_rows = pool.write(segment, lanes, call)
        # Dummies and padding read the store's row of zeros, and are not stored.
        inputs.sources[:], inputs.destinations[:] = 0, -1
        for first, lane in zip(first_rows, lanes, strict=True):
            rows = slice(first, first + len(lane.tokens))
            written = np.arange(lane.start, lane.start + len(lane.tokens))
            if segment > 0:
                inputs.sources[rows] = pool.row(lane.context.text, segment - 1) + written
            inputs.destinations[rows] = pool.row(lane.context.text, segment) + written
        return call

    def _prepare(self, pool: DraftPool, key: Key) -> Prepared:
        segment, shape, _ = key
        gpu, graph = self.gpu, self._segments[segment]
        inputs = LayerInputs(gpu, shape, self._mask, self.form.lanes > 1)
        past, present = pool.caches[segment].tensors(shape.window, shape.view)
        hidden, source = (1, shape.rows, self._hidden_size), {names.INPUT_IDS: inputs.tokens}
        if segment > 0:
            source = {names.HIDDEN_STATES: Tensor(self._source.address, hidden)}
        result = {names.OUTPUT_HIDDEN_STATES: Tensor(self._result.address, hidden)}
        run = graph.bind(shape.rows, {**source, **inputs.tensors, **past}, {**result, **present})
        words, at = self.row_bytes // WORD, inputs.staging.addresses
        fetch = (self._source.address, pool.store.address, at["sources"], words)
        store = (pool.store.address, self._result.address, at["destinations"], words)

        def steps() -> None:
            inputs.queue()
            if segment > 0:
                gpu.launch("fetch_rows", shape.rows * words, *fetch)
            run()
            gpu.launch("store_rows", shape.rows * words, *store)

        pool.calls[key] = Prepared(key, inputs, steps, Work(gpu, steps, graph.recordable))
        return pool.calls[key]

    def candidates(self, lanes: Sequence[HeadLane]) -> Sequence[Candidates]:
        """Run the head on rows of the stores, and wait for the candidates."""
        with self.timed:
            calls = [call for group in by_pool(lanes).values() for call in self._head_calls(group)]
            found: dict[int, Candidates] = {}
            for chosen, call in calls:
                point(call.inputs, chosen)
                for lane in chosen:
                    lane.context.noise.upload(lane.noise)
                call.work.queue()
                self.gpu.wait()
                row, arrays = 0, call.candidates.arrays
                for lane in chosen:
                    rows = slice(row, row + lane.stop - lane.start)
                    tokens, logprobs = arrays["tokens"][rows], arrays["logprobs"][rows]
                    # Another call may have the same memory.
                    found[id(lane)] = (tokens, logprobs) if len(calls) == 1 else (tokens.copy(), logprobs.copy())
                    row = rows.stop
        return [found[id(lane)] for lane in lanes]

    def _head_calls(self, lanes: Sequence[HeadLane]) -> Iterator[tuple[list[HeadLane], HeadCall]]:
        """The calls that lanes of one pool take."""
        pool: DraftPool = lanes[0].context.pool
        groups: list[list[HeadLane]] = []
        rows = 0
        for lane in lanes:
            rows += lane.stop - lane.start
            if not groups or rows > self.max_head_rows:
                groups.append([])
                rows = lane.stop - lane.start
            groups[-1].append(lane)
        for group in groups:
            padded = self.head.buckets.fit(sum(lane.stop - lane.start for lane in group), self.max_head_rows)
            yield group, pool.heads.get(padded) or self._prepare_head(pool, padded)

    def _prepare_head(self, pool: DraftPool, rows: int) -> HeadCall:
        inputs, candidates = self.head.new_inputs(rows), self.head.new_candidates(rows)
        run = self.head.steps(inputs, candidates, pool.store, pool.noise)

        def steps() -> None:
            run()
            candidates.download()

        pool.heads[rows] = HeadCall(inputs, candidates, Work(self.gpu, steps, self.head.graph.recordable))
        return pool.heads[rows]

    def wait(self) -> None:
        """Wait for the stream."""
        self.gpu.wait()


@dataclass(frozen=True, slots=True)
class HeadCall:
    """A call of the head on so many rows: which rows, its result, and what queues it."""

    inputs: Staging
    candidates: Staging
    work: Work


class DraftPool(Pool):
    """Caches of several texts, the store of their hidden states, and their rows of noise.

    The store's first row is zero. What segment k wrote at row r of a text is row ``row(text, k) + r``, and the input of
    segment k + 1.
    """

    def __init__(self, gpu: Gpu, form: CacheForm, parts: Sequence[range], row_bytes: int, head: Head) -> None:
        super().__init__(gpu, form, parts)
        self._segments, self._row_bytes = len(parts), row_bytes
        self.store, self.noise = gpu.allocate(self._store_bytes(self.size)), head.new_noise()
        self.heads: dict[int, HeadCall] = {}
        self.depths: Depths = {}

    def _store_bytes(self, texts: int) -> int:
        return self.row(texts, 0) * self._row_bytes

    def row(self, text: int, segment: int) -> int:
        """The row of the store that holds what ``segment`` wrote at row 0 of a text."""
        return 1 + (text * self._segments + segment) * self.form.slots

    def grow(self, size: int) -> None:
        """Move all texts to memory for ``size`` of them."""
        self.gpu.wait()
        self.heads.clear()
        self.depths.clear()
        self.store = grown(self.gpu, self.store, self._store_bytes(size))
        super().grow(size)


class GpuDraftContext(Member):
    """One text's caches and hidden states."""

    pool: DraftPool

    def __init__(self, engines: GpuDraft, pool: DraftPool, vocab_size: int) -> None:
        super().__init__(pool)
        self.noise = NoiseRow(engines.gpu, pool.noise, self.text, vocab_size)
        self.cascade: Cascade | None = DeviceCascade(engines, self) if engines.cascades else None

    def reset(self) -> None:
        """Queue the zeroing of caches, if any were used; hidden states are written before they are read."""
        self.noise.forget()
        self.pool.reset(self.text)
