"""A draft on a GPU: hidden states stay there, and while drafting the host reads back nothing but candidates."""

from __future__ import annotations

import numpy as np

from runtime.backends import Cascade, Clock
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import SOURCE, LayerInputs, Steps, Timed, Work
from runtime.backends.cuda.cascade import MOST_EXITS, DeviceCascade, Staged
from runtime.backends.cuda.graph import ELEMENT_BYTES, WORD, CacheForm, DeviceCache, DeviceGraph, Tensor
from runtime.backends.cuda.memory import Gpu, Staging
from s2d_trt import names
from s2d_trt.bundle import Manifest


class GpuDraft:
    """See ``DraftEngines``. ``segments`` and ``head`` are the loaded graphs; ``cascades`` lets the device decide."""

    def __init__(
        self,
        gpu: Gpu,
        manifest: Manifest,
        segments: list[DeviceGraph],
        head: DeviceGraph,
        backend: str,
        cascades: bool = False,
    ) -> None:
        self.cascades = cascades
        self.place = f"{backend}, {gpu.name}"
        self.gpu, self.manifest, self.segments, self.head = gpu, manifest, segments, head
        self.form = CacheForm.of(manifest)
        self.max_rows = min(segment.max_rows for segment in segments)
        self.max_head_rows = min(head.max_rows, self.max_rows)
        edges = {edge for segment in segments for edge in segment.edges}
        self.buckets = Buckets(self.max_rows, tuple(edges))
        self.head_buckets = Buckets(self.max_head_rows, head.edges)
        self.row_bytes = manifest.model.hidden_size * ELEMENT_BYTES[manifest.precision]
        # One stream runs all calls of all texts in order: they take turns on what lives no longer than a call.
        self.mask = gpu.allocate(self.max_rows * self.form.slots)
        self.source, self.result = (gpu.allocate(self.max_rows * self.row_bytes) for _ in range(2))

    def context(self) -> GpuDraftContext:
        """See ``DraftEngines``."""
        return GpuDraftContext(self)


class GpuDraftContext:
    """Caches, hidden states and calls of one text in a draft.

    Row ``k * slots + r`` of the store is the output of segment k at row r, and what segment k + 1 waits for.
    """

    def __init__(self, engines: GpuDraft) -> None:
        self.clock = Clock()
        self.gpu, self.timed, self._engines = engines.gpu, Timed(self.clock), engines
        exits = engines.manifest.exits
        layers = (range(start, stop) for start, stop in zip((0, *exits[:-1]), exits, strict=True))
        self._caches = [DeviceCache(self.gpu, engines.form, part) for part in layers]
        self._store = self.gpu.allocate(len(exits) * engines.form.slots * engines.row_bytes)
        self._noise = Staging(self.gpu, {"noise": (np.float32, (1, engines.manifest.model.vocab_size))})
        self._noise_row: np.ndarray | None = None
        self._used = False
        self._calls: dict[tuple[int, int, int], tuple[LayerInputs, Steps, Work]] = {}
        self._heads: dict[int, tuple[Staging, Staging, Work]] = {}
        recordable = all(graph.recordable for graph in (*engines.segments, engines.head))
        decides = engines.cascades and recordable and len(exits) <= MOST_EXITS
        self.cascade: Cascade | None = DeviceCascade(self) if decides else None

    def forward(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """See ``DraftContext``."""
        with self.timed:
            staged = self._stage(segment, tokens, positions, start, base, visible)
            _, _, work = self._calls[staged.key]
            work.queue()
            staged.inputs.staging.close()

    def staged(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> Staged:
        """Write a call's inputs, for a graph that queues it among others and whose end is waited for."""
        with self.timed:
            return self._stage(segment, tokens, positions, start, base, visible)

    def _stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> Staged:
        slots = self._engines.form.slots
        rows = self._engines.buckets.fit(len(tokens), slots - start)
        key = segment, rows, self._engines.form.view(start + rows)
        inputs, steps, _ = self._calls.get(key) or self._prepare(key)
        before, after = (segment - 1) * slots + start, segment * slots + start
        self._used = True
        inputs.fill(tokens, positions, start, base, visible, before, after)
        return Staged(key, inputs, steps)

    def _prepare(self, key: tuple[int, int, int]) -> tuple[LayerInputs, Steps, Work]:
        segment, rows, view = key
        engines, gpu = self._engines, self.gpu
        inputs = LayerInputs(gpu, rows, view, engines.mask)
        past, present = self._caches[segment].tensors(view)
        shape = (1, rows, engines.manifest.model.hidden_size)
        graph = engines.segments[segment]
        source = (
            {names.INPUT_IDS: inputs.tokens}
            if segment == 0
            else {names.HIDDEN_STATES: Tensor(engines.source.address, shape)}
        )
        result = {names.OUTPUT_HIDDEN_STATES: Tensor(engines.result.address, shape)}
        run = graph.bind(rows, {**source, **inputs.tensors, **past}, {**result, **present})
        words = engines.row_bytes // WORD

        def steps() -> None:
            inputs.queue()
            if segment > 0:
                gpu.launch(
                    "fetch_rows", rows * words, engines.source.address, self._store.address, inputs.control, words
                )
            run()
            gpu.launch("store_rows", rows * words, self._store.address, engines.result.address, inputs.control, words)

        self._calls[key] = inputs, steps, Work(gpu, steps, graph.recordable)
        return self._calls[key]

    def candidates(self, segment: int, start: int, stop: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``DraftContext``."""
        with self.timed:
            rows = self.head_rows(start, stop - start)
            control, found, work = self._heads.get(rows) or self._prepare_head(rows)
            self.upload_noise(noise)
            self.point(control, segment, start)
            work.queue()
            self.gpu.wait()
        return found.arrays["tokens"][: stop - start], found.arrays["logprobs"][: stop - start]

    def reset(self) -> None:
        """Queue the zeroing of caches and hidden states, if any were used: padding rows read both."""
        self._noise_row = None
        if self._used:
            for cache in self._caches:
                cache.clear()
            self.gpu.clear(self._store)
            self._used = False

    def wait(self) -> None:
        """See ``DraftContext``."""
        self.gpu.wait()

    def upload_noise(self, noise: np.ndarray) -> None:
        """Queue the transfer of a row of noise, unless it is there already."""
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

    def head_rows(self, start: int, count: int) -> int:
        """Rows of the head's call for ``count`` rows from ``start`` on."""
        return self._engines.head_buckets.fit(count, self._engines.form.slots - start)

    def new_control(self) -> Staging:
        """A control block of the head."""
        return Staging(self.gpu, {"control": (np.int64, (6,))})

    def point(self, control: Staging, segment: int, start: int) -> None:
        """Let the head read what ``segment`` left from row ``start`` on."""
        control.open()
        control.arrays["control"][SOURCE] = segment * self._engines.form.slots + start

    def new_candidates(self, rows: int) -> Staging:
        """Where the head's answer for ``rows`` rows goes."""
        top_k = self._engines.manifest.head_top_k
        shape = (rows, top_k)
        return Staging(
            self.gpu, {"tokens": (np.int64, shape), "logprobs": (np.float32, shape), "exit": (np.int64, (1,))}
        )

    def head_steps(self, rows: int, control: Staging, found: Staging) -> Steps:
        """What queues the head on ``rows`` rows that ``control`` points to; its answer stays on the device."""
        engines, gpu = self._engines, self.gpu
        spec, shape = engines.manifest.model, found.arrays["tokens"].shape
        run = engines.head.bind(
            rows,
            {
                names.HIDDEN_STATES: Tensor(engines.source.address, (1, rows, spec.hidden_size)),
                names.NOISE: Tensor(self._noise.addresses["noise"], (1, spec.vocab_size)),
            },
            {
                names.TOP_TOKENS: Tensor(found.addresses["tokens"], shape),
                names.TOP_LOGPROBS: Tensor(found.addresses["logprobs"], shape),
            },
        )
        words = engines.row_bytes // WORD

        def steps() -> None:
            control.upload()
            source, store = engines.source.address, self._store.address
            gpu.launch("fetch_rows", rows * words, source, store, control.addresses["control"], words)
            run()

        return steps

    def _prepare_head(self, rows: int) -> tuple[Staging, Staging, Work]:
        control, found = self.new_control(), self.new_candidates(rows)
        answer = self.head_steps(rows, control, found)

        def steps() -> None:
            answer()
            found.download()

        self._heads[rows] = control, found, Work(self.gpu, steps, self._engines.head.recordable)
        return self._heads[rows]
