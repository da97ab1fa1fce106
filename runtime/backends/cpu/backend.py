"""ONNX Runtime on the CPU: the default backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from runtime.backends import Candidates, Cascade, Clock, HeadLane, Lane, TargetLane
from runtime.backends.cpu.kv import BUCKET, KVCache
from runtime.backends.cpu.lanes import LayerEngine
from runtime.backends.cpu.session import Engine
from runtime.backends.cpu.signature import head_signature
from runtime.machine.processor import physical_cores
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.manifest import SCRATCH_ROWS, Manifest

MAX_ROWS = SCRATCH_ROWS
"""Most rows in one call: the cache rows that are spare for a tree."""
COMPARED_ROWS = 3
COMPARED_STOPS = (BUCKET, 2 * BUCKET, 4 * BUCKET)
"""Lengths of the text at which one row alone is compared with several: attention's kernels depend on the length."""


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """Sessions on the CPU provider with ``threads`` threads each (None: the physical cores)."""

    threads: int | None = None

    def draft(self, bundle: Bundle) -> OnnxDraft:
        """Open a session for each segment and the head. Raises BundleError."""
        return OnnxDraft(bundle, self.threads)

    def target(self, bundle: Bundle) -> OnnxTarget:
        """Open the session. Raises BundleError."""
        return OnnxTarget(bundle, self.threads)


def location(threads: int | None) -> str:
    """The library and its number of threads, in words."""
    return f"ONNX Runtime, {threads or physical_cores()} threads"


class OnnxDraft:
    """The segments and the head of a draft."""

    max_rows = max_head_rows = MAX_ROWS

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.manifest, self.location, self.clock = bundle.manifest, location(threads), Clock()
        self.layers = [range(start, stop) for start, stop in pairwise((0, *self.manifest.exits))]
        self._segments = [
            LayerEngine(bundle, names.segment(index), layers, self.clock, threads)
            for index, layers in enumerate(self.layers)
        ]
        self.lanes = self._segments[0].lanes
        self._head = Engine(bundle, names.HEAD, head_signature(self.manifest), self.clock, threads)
        self._noise: list[np.ndarray] = []
        # Heads of earlier bundles add one row of noise to all rows.
        self._one_noise = self._head.shapes[names.NOISE][0] == 1

    def open_lanes(self, texts: int) -> None:
        """Open the sessions that calls of up to so many texts need."""
        for segment in self._segments:
            segment.open_lanes(texts)

    def context(self) -> OnnxDraftContext:
        """Zeroed caches and hidden states."""
        return OnnxDraftContext(self)

    def forward(self, segment: int, lanes: Sequence[Lane]) -> None:
        """Run rows through a segment and keep their hidden states."""
        layers, hidden_size = self._segments[segment], self.manifest.model.hidden_size
        for call in layers.cuts(lanes):
            engine, places = layers.prepare(call, [lane.context.caches[segment] for lane in call], company=False)
            rows = sum(len(lane.tokens) for lane in call)
            if segment == 0:
                source = engine.buffer(names.INPUT_IDS, 1, rows)[0]
                for lane, place in zip(call, places, strict=True):
                    source[place] = lane.tokens
            else:
                source = engine.buffer(names.HIDDEN_STATES, 1, rows, hidden_size)[0]
                for lane, place in zip(call, places, strict=True):
                    source[place] = lane.context.hidden[segment - 1][_written(lane)]
            result = engine.buffer(names.OUTPUT_HIDDEN_STATES, 1, rows, hidden_size)[0]
            engine.run()
            for lane, place in zip(call, places, strict=True):
                lane.context.hidden[segment][_written(lane)] = result[place]

    def candidates(self, lanes: Sequence[HeadLane]) -> Sequence[Candidates]:
        """Run the head, with a row of noise for each row; of one text, whose rows share a row, with that one."""
        if len(lanes) > 1 and self._one_noise:
            return [(tokens.copy(), logprobs.copy()) for lane in lanes for tokens, logprobs in self.candidates([lane])]
        sizes, spec, top_k = [lane.stop - lane.start for lane in lanes], self.manifest.model, self.manifest.head_top_k
        rows, head = sum(sizes), self._head
        hidden = head.buffer(names.HIDDEN_STATES, 1, rows, spec.hidden_size)[0]
        noises = [lane.noise for lane in lanes] if len(lanes) == 1 else _repeated(lanes, sizes)
        self._fill_noise(noises)
        tokens = head.buffer(names.TOP_TOKENS, rows, top_k)
        logprobs = head.buffer(names.TOP_LOGPROBS, rows, top_k)
        places, start = [], 0
        for lane, size in zip(lanes, sizes, strict=True):
            places.append(slice(start, start + size))
            hidden[places[-1]] = lane.context.hidden[lane.segment][lane.start : lane.stop]
            start += size
        head.run()
        return [(tokens[place], logprobs[place]) for place in places]

    def _fill_noise(self, noises: list[np.ndarray]) -> None:
        """Copy the rows of noise that are other arrays than at the last call."""
        vocab_size = self.manifest.model.vocab_size
        buffer = self._head.buffer(names.NOISE, len(noises), vocab_size)
        # A block that grew, or rows of another call, leave nothing to build on.
        if len(noises) > len(self._noise):
            self._noise = []
        for row, noise in enumerate(noises):
            if row < len(self._noise) and noise is self._noise[row]:
                continue
            known = min(len(noise), vocab_size)
            buffer[row, :known] = noise[:known]
            buffer[row, known:] = -np.inf
        self._noise[: len(noises)] = noises

    def wait(self) -> None:
        """Return at once: every call waits for its own end."""


class OnnxDraftContext:
    """Caches and hidden states of one text in a draft."""

    cascade: Cascade | None = None

    def __init__(self, engines: OnnxDraft) -> None:
        self.caches = [_cache(engines.manifest, len(layers)) for layers in engines.layers]
        # Row r of hidden[k] is the output of segment k at row r, and the input of segment k + 1.
        size = (self.caches[0].slots, engines.manifest.model.hidden_size)
        self.hidden = [np.zeros(size, np.float32) for _ in engines.layers]

    def reset(self) -> None:
        """Zero the caches; hidden states are written before they are read."""
        for cache in self.caches:
            cache.reset()


class OnnxTarget:
    """The graph of a target."""

    device: Literal["cpu", "cuda"] = "cpu"
    max_rows = MAX_ROWS

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.manifest, self.location, self.clock = bundle.manifest, location(threads), Clock()
        layers = range(self.manifest.model.num_hidden_layers)
        self._layers = LayerEngine(bundle, names.TARGET, layers, self.clock, threads)
        self.needs_company: bool | None = None

    @property
    def lanes(self) -> tuple[int, ...]:
        """Numbers of lanes that one call may have."""
        return self._layers.lanes

    @lanes.setter
    def lanes(self, lanes: tuple[int, ...]) -> None:
        self._layers.lanes = lanes

    def context(self) -> OnnxTargetContext:
        """A zeroed cache."""
        return OnnxTargetContext(self.manifest)

    def open_lanes(self, texts: int) -> None:
        """Open the sessions that calls of up to so many texts need."""
        self._layers.open_lanes(texts)

    def forward(self, lanes: Sequence[TargetLane]) -> Sequence[np.ndarray]:
        """Run rows; in exact lanes a row has the same bits in every call of two rows or more.

        Where one row alone has other bits, an exact call of one row adds a masked dummy row.
        """
        calls = self._layers.cuts(lanes)
        if len(calls) == 1:
            return self._call(calls[0])
        return [logits.copy() for call in calls for logits in self._call(call)]

    def _call(self, lanes: Sequence[TargetLane]) -> Sequence[np.ndarray]:
        alone = any(lane.exact_rows and 1 in (len(lane.tokens), len(lane.logit_rows)) for lane in lanes)
        company = alone and self.adds_dummies()
        asked = [len(lane.logit_rows) for lane in lanes]
        if company and len(lanes) == 1:
            lanes = [_joined_by_dummy(lanes[0])]
        engine, places = self._layers.prepare(lanes, [lane.context.cache for lane in lanes], company)
        rows, wanted = sum(len(lane.tokens) for lane in lanes), sum(len(lane.logit_rows) for lane in lanes)
        ids = engine.buffer(names.INPUT_IDS, 1, rows)[0]
        logit_rows = engine.buffer(names.LOGIT_ROWS, wanted)
        logits = engine.buffer(names.LOGITS, wanted, self.manifest.model.vocab_size)
        results, start = [], 0
        for lane, place, count in zip(lanes, places, asked, strict=True):
            ids[place] = lane.tokens
            stop = start + len(lane.logit_rows)
            logit_rows[start:stop] = lane.logit_rows + place.start
            results.append(logits[start : start + count])
            start = stop
        engine.run()
        return results

    def lone_rows_agree(self) -> bool:
        """Compare calls of one row, and of one row of logits, with a call of several, over several cache buckets."""
        context, rng = self.context(), np.random.default_rng(0)
        context.cache.fill(rng, max(COMPARED_STOPS))
        longest = self.manifest.cache.max_length
        rows = np.arange(min(COMPARED_ROWS, longest))
        tokens, causal = rng.integers(0, self.manifest.model.vocab_size, len(rows)), np.tri(len(rows), dtype=bool)

        def logits(first: int, stop: int, start: int, wanted: np.ndarray) -> np.ndarray:
            part, visible = slice(first, stop), causal[: stop - first, : stop - first]
            lane = TargetLane(context, tokens[part], start + rows[: stop - first], start, start, visible, wanted)
            return self.forward([lane])[0]

        for end in sorted({min(stop, longest) for stop in COMPARED_STOPS}):
            start = end - len(rows)
            together = logits(0, len(rows), start, rows).copy()
            if not np.array_equal(logits(0, len(rows), start, rows[-1:])[0], together[-1]):
                return False
            for row in range(len(rows)):
                if not np.array_equal(logits(row, row + 1, start + row, rows[:1])[0], together[row]):
                    return False
        return True

    def adds_dummies(self) -> bool:
        """Whether exact calls of one row add a dummy row."""
        if self.needs_company is None:
            self.needs_company = not self.lone_rows_agree()
        return self.needs_company


class OnnxTargetContext:
    """The cache of one text in a target."""

    def __init__(self, manifest: Manifest) -> None:
        self.cache = _cache(manifest, manifest.model.num_hidden_layers)

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move the rows at once."""
        self.cache.move(sources, start)

    def reset(self) -> None:
        """Zero the cache."""
        self.cache.reset()


def _cache(manifest: Manifest, layers: int) -> KVCache:
    return KVCache(layers, manifest.cache.max_length + SCRATCH_ROWS, manifest.model.kv_width)


def _written(lane: Lane) -> slice:
    """The rows of a text that its lane computes."""
    return slice(lane.start, lane.start + len(lane.tokens))


def _repeated(lanes: Sequence[HeadLane], sizes: Sequence[int]) -> list[np.ndarray]:
    """A row of noise for each row of every lane."""
    return [lane.noise for lane, size in zip(lanes, sizes, strict=True) for _ in range(size)]


def _joined_by_dummy(lane: TargetLane) -> TargetLane:
    """At least two rows through the layers, and at least two through the head."""
    if len(lane.tokens) == 1:
        # Of the new rows, the dummy reads only itself, and no other row reads it.
        visible = np.eye(2, dtype=bool)
        lane = replace(lane, tokens=lane.tokens.repeat(2), positions=lane.positions.repeat(2), visible=visible)
    return lane if len(lane.logit_rows) > 1 else replace(lane, logit_rows=lane.logit_rows.repeat(2))
