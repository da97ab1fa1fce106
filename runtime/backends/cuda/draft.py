"""A draft on a GPU: hidden states stay there, and while drafting the host reads back nothing but candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.backends import Candidates, Cascade, Clock, HeadLane, Lane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import LayerInputs, Staged, Timed, Work
from runtime.backends.cuda.cascade import MOST_EXITS, DeviceCascade
from runtime.backends.cuda.graph import ELEMENT_BYTES, WORD, CacheForm, DeviceCache, DeviceGraph, Tensor
from runtime.backends.cuda.head import Head, HeadCalls
from runtime.backends.cuda.memory import Gpu, Staging
from s2d_trt import names
from s2d_trt.bundle import Manifest


class GpuDraft:
    """The loaded graphs of a draft. ``cascades`` asks that the device decide which exit answers.

    The lanes of a call run one after another.
    """

    lanes: tuple[int, ...] = (1,)

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
        self.gpu, self.manifest, self.segments = gpu, manifest, segments
        self.form = CacheForm.of(manifest)
        self.max_rows = min(segment.max_rows for segment in segments)
        self.max_head_rows = min(head.max_rows, self.max_rows)
        self.buckets = Buckets(self.max_rows, tuple({edge for segment in segments for edge in segment.edges}))
        self._cascades = cascades and len(segments) <= MOST_EXITS
        self.row_bytes = manifest.model.hidden_size * ELEMENT_BYTES[manifest.precision]
        # One stream runs the calls of all sequences in order, so they share what no call leaves to the next.
        self.mask = gpu.allocate(self.max_rows * self.form.slots)
        self.source, self.result = (gpu.allocate(self.max_rows * self.row_bytes) for _ in range(2))
        head_buckets = Buckets(self.max_head_rows, head.edges)
        self.head = Head(gpu, head, manifest, head_buckets, self.form.slots, self.row_bytes, self.source)

    @property
    def cascades(self) -> bool:
        """Whether the device decides which exit answers; that needs graphs that can be recorded."""
        return self._cascades and all(graph.recordable for graph in (*self.segments, self.head.graph))

    def context(self) -> GpuDraftContext:
        """Caches and hidden states on the device, zeroed."""
        return GpuDraftContext(self)

    def forward(self, segment: int, lanes: Sequence[Lane]) -> None:
        """Queue a call of a segment for each lane."""
        with self.timed:
            for lane in lanes:
                lane.context.forward(segment, lane.tokens, lane.positions, lane.start, lane.base, lane.visible)

    def candidates(self, lanes: Sequence[HeadLane]) -> Sequence[Candidates]:
        """Queue a call of the head for each lane, and wait for the candidates of all."""
        with self.timed:
            found = [lane.context.candidates(lane.segment, lane.start, lane.stop, lane.noise) for lane in lanes]
            self.gpu.wait()
        return found

    def wait(self) -> None:
        """Wait for the stream."""
        self.gpu.wait()


class GpuDraftContext:
    """Caches, hidden states and calls of one sequence in a draft.

    Row ``k * slots + r`` of the store is the output of segment k at row r, and the input of segment k + 1.
    """

    def __init__(self, engines: GpuDraft) -> None:
        self._gpu, self._engines = engines.gpu, engines
        exits = engines.manifest.exits
        layers = (range(start, stop) for start, stop in zip((0, *exits[:-1]), exits, strict=True))
        self._caches = [DeviceCache(self._gpu, engines.form, part) for part in layers]
        self._store = self._gpu.allocate(len(exits) * engines.form.slots * engines.row_bytes)
        self._used = False
        self._calls: dict[tuple[int, int, int], tuple[Staged, Work]] = {}
        self._head = HeadCalls(engines.head, self._store)
        self._head_calls: dict[int, tuple[Staging, Staging, Work]] = {}
        self.cascade: Cascade | None = None
        if engines.cascades:
            self.cascade = DeviceCascade(self._gpu, self._head, self._stage, engines.timed)

    def forward(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Queue a call of a segment, padded to a bucket; its hidden states go to the store."""
        staged = self._stage(segment, tokens, positions, start, base, visible)
        self._calls[staged.key][1].queue()
        staged.inputs.staging.close()

    def _stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> Staged:
        slots = self._engines.form.slots
        rows = self._engines.buckets.fit(len(tokens), slots - start)
        key = segment, rows, self._engines.form.view(start + rows)
        staged, _ = self._calls.get(key) or self._prepare(key)
        before, after = (segment - 1) * slots + start, segment * slots + start
        self._used = True
        staged.inputs.fill(tokens, positions, start, base, visible, before, after)
        return staged

    def _prepare(self, key: tuple[int, int, int]) -> tuple[Staged, Work]:
        segment, rows, view = key
        engines, gpu = self._engines, self._gpu
        inputs = LayerInputs(gpu, rows, view, engines.mask)
        past, present = self._caches[segment].tensors(view)
        shape = (1, rows, engines.manifest.model.hidden_size)
        graph, source = engines.segments[segment], {names.INPUT_IDS: inputs.tokens}
        if segment > 0:
            source = {names.HIDDEN_STATES: Tensor(engines.source.address, shape)}
        result = {names.OUTPUT_HIDDEN_STATES: Tensor(engines.result.address, shape)}
        run = graph.bind(rows, {**source, **inputs.tensors, **past}, {**result, **present})
        words = engines.row_bytes // WORD
        fetch = (engines.source.address, self._store.address, inputs.control, words)
        store = (self._store.address, engines.result.address, inputs.control, words)

        def steps() -> None:
            inputs.queue()
            if segment > 0:
                gpu.launch("fetch_rows", rows * words, *fetch)
            run()
            gpu.launch("store_rows", rows * words, *store)

        self._calls[key] = Staged(key, inputs, steps), Work(gpu, steps, graph.recordable)
        return self._calls[key]

    def candidates(self, segment: int, start: int, stop: int, noise: np.ndarray) -> Candidates:
        """Queue a call of the head on rows of the store, padded to a bucket; its candidates come with the next wait."""
        rows = self._head.rows(start, stop - start)
        control, candidates, work = self._head_calls.get(rows) or self._prepare_head(rows)
        self._head.upload_noise(noise)
        self._head.point(control, segment, start)
        work.queue()
        return candidates.arrays["tokens"][: stop - start], candidates.arrays["logprobs"][: stop - start]

    def _prepare_head(self, rows: int) -> tuple[Staging, Staging, Work]:
        control, candidates = self._head.new_control(), self._head.new_candidates(rows)
        run = self._head.steps(rows, control, candidates)

        def steps() -> None:
            run()
            candidates.download()

        self._head_calls[rows] = control, candidates, Work(self._gpu, steps, self._engines.head.graph.recordable)
        return self._head_calls[rows]

    def reset(self) -> None:
        """Queue the zeroing of caches and hidden states, if any were used: padding rows read both."""
        self._head.forget_noise()
        if self._used:
            for cache in self._caches:
                cache.clear()
            self._gpu.clear(self._store)
            self._used = False
