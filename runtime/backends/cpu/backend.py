"""ONNX Runtime on the CPU: the default backend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from runtime.backends import Cascade, Clock
from runtime.backends.cpu.kv import BUCKET, KVCache
from runtime.backends.cpu.session import Engine, LayerCache, Shapes
from runtime.machine.processor import physical_cores
from s2d_trt import names
from s2d_trt.bundle import SCRATCH_ROWS, Bundle, Manifest
from s2d_trt.spec import ModelSpec

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
        self.manifest, self.location = bundle.manifest, location(threads)
        self.segments = [Engine(bundle, names.segment(index), threads) for index in range(len(self.manifest.exits))]
        self.head = Engine(bundle, names.HEAD, threads)

    def context(self) -> OnnxDraftContext:
        """Zeroed caches and hidden states."""
        return OnnxDraftContext(self)


class OnnxDraftContext:
    """Caches, hidden states and buffers of one sequence in a draft."""

    cascade: Cascade | None = None

    def __init__(self, engines: OnnxDraft) -> None:
        self.clock = Clock()
        manifest = engines.manifest
        self._spec, self._top_k = manifest.model, manifest.head_top_k
        starts = (0, *manifest.exits[:-1])
        layers = [range(start, stop) for start, stop in zip(starts, manifest.exits, strict=True)]
        self._caches = [_cache(manifest, len(part)) for part in layers]
        # Row r of _hidden[k] is the output of segment k at row r, and the input of segment k + 1.
        self._hidden = [np.zeros((self._caches[0].slots, self._spec.hidden_size), np.float32) for _ in layers]
        self._bindings = [
            segment.binding(
                self.clock,
                partial(_segment_shapes, self._spec, index == 0),
                LayerCache(self._caches[index], layers[index]),
            )
            for index, segment in enumerate(engines.segments)
        ]
        self._head = engines.head.binding(self.clock, partial(_head_shapes, self._spec, self._top_k))
        self._noise: np.ndarray | None = None

    def forward(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Run rows through a segment and keep their hidden states."""
        rows = len(tokens)
        stop = start + rows
        call = self._bindings[segment].call(self._caches[segment].hold(stop), rows)
        source, position_ids, write_index, mask, hidden = call.buffers
        source[0] = tokens if segment == 0 else self._hidden[segment - 1][start:stop]
        position_ids[0] = positions
        write_index[0] = start
        _fill(mask, base, visible)
        call.run()
        self._hidden[segment][start:stop] = hidden[0]

    def candidates(self, segment: int, start: int, stop: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the head; a row of noise is copied only if it is another array than at the last call."""
        call = self._head.call(stop - start)
        hidden, noise_row, tokens, logprobs = call.buffers
        hidden[0] = self._hidden[segment][start:stop]
        if noise is not self._noise:
            known = min(len(noise), self._spec.vocab_size)
            noise_row[0, :known] = noise[:known]
            noise_row[0, known:] = -np.inf
            self._noise = noise
        call.run()
        return tokens, logprobs

    def reset(self) -> None:
        """Zero the caches; hidden states are written before they are read."""
        for cache in self._caches:
            cache.reset()
        self._noise = None

    def wait(self) -> None:
        """Return at once: every call waits for its own end."""


class OnnxTarget:
    """The graph of a target."""

    device: Literal["cpu", "cuda"] = "cpu"
    max_rows = MAX_ROWS

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.manifest, self.location = bundle.manifest, location(threads)
        self.engine = Engine(bundle, names.TARGET, threads)
        self.needs_company: bool | None = None

    def context(self) -> OnnxTargetContext:
        """A zeroed cache."""
        return OnnxTargetContext(self)

    def lone_rows_agree(self) -> bool:
        """Compare calls of one row, and of one row of logits, with a call of several, over several cache buckets."""
        context, rng = self.context(), np.random.default_rng(0)
        context.cache.fill(rng, max(COMPARED_STOPS))
        longest = self.manifest.cache.max_length
        rows = np.arange(min(COMPARED_ROWS, longest))
        tokens, causal = rng.integers(0, self.manifest.model.vocab_size, len(rows)), np.tri(len(rows), dtype=bool)
        for stop in sorted({min(stop, longest) for stop in COMPARED_STOPS}):
            positions = stop - len(rows) + rows
            together = context.forward(tokens, positions, positions[0], causal, rows).copy()
            last = context.forward(tokens, positions, positions[0], causal, rows[-1:])[0]
            if not np.array_equal(last, together[-1]):
                return False
            for row in rows:
                one = slice(row, row + 1)
                alone = context.forward(tokens[one], positions[one], positions[row], causal[:1, :1], rows[:1])
                if not np.array_equal(alone[0], together[row]):
                    return False
        return True

    def adds_dummies(self) -> bool:
        """Whether exact calls of one row add a dummy row."""
        if self.needs_company is None:
            self.needs_company = not self.lone_rows_agree()
        return self.needs_company


class OnnxTargetContext:
    """Cache and buffers of one sequence in a target."""

    def __init__(self, engine: OnnxTarget) -> None:
        self.clock, self._engine = Clock(), engine
        spec = engine.manifest.model
        self.cache = _cache(engine.manifest, spec.num_hidden_layers)
        layers = LayerCache(self.cache, range(spec.num_hidden_layers))
        self._binding = engine.engine.binding(self.clock, partial(_target_shapes, spec), layers)

    def forward(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        start: int,
        visible: np.ndarray,
        logit_rows: np.ndarray,
        exact_rows: int = 0,
    ) -> np.ndarray:
        """Run rows ``[start, start + n)``; a row has the same bits in every call of two rows or more.

        Where one row alone has other bits, an exact call of one row adds a masked dummy row.
        """
        asked = len(logit_rows)
        if exact_rows and 1 in (len(tokens), asked) and self._engine.adds_dummies():
            tokens, positions, visible, logit_rows = _joined_by_dummy(tokens, positions, visible, logit_rows)
        rows = len(tokens)
        call = self._binding.call(self.cache.hold(start + rows), rows, len(logit_rows))
        ids, position_ids, mask, write_index, wanted, logits = call.buffers
        ids[0] = tokens
        position_ids[0] = positions
        _fill(mask, start, visible)
        write_index[0] = start
        wanted[:] = logit_rows
        call.run()
        return logits[:asked]

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move the rows at once."""
        self.cache.move(sources, start)

    def reset(self) -> None:
        """Zero the cache."""
        self.cache.reset()


def _cache(manifest: Manifest, layers: int) -> KVCache:
    return KVCache(layers, manifest.cache.max_length + SCRATCH_ROWS, manifest.model.kv_width)


def _fill(mask: np.ndarray, base: int, visible: np.ndarray) -> None:
    stop = base + visible.shape[1]
    mask[:, :base] = True
    mask[:, base:stop] = visible
    mask[:, stop:] = False


def _joined_by_dummy(
    tokens: np.ndarray, positions: np.ndarray, visible: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At least two rows through the layers, and at least two through the head."""
    if len(tokens) == 1:
        tokens, positions = tokens.repeat(2), positions.repeat(2)
        # Of the new rows, the dummy reads only itself, and no other row reads it.
        visible = np.eye(2, dtype=bool)
    if len(rows) == 1:
        rows = rows.repeat(2)
    return tokens, positions, visible, rows


def _segment_shapes(spec: ModelSpec, first: bool, bucket: int, rows: int) -> Shapes:
    source = (names.INPUT_IDS, (1, rows)) if first else (names.HIDDEN_STATES, (1, rows, spec.hidden_size))
    return (
        source,
        (names.POSITION_IDS, (1, rows)),
        (names.WRITE_INDEX, (1,)),
        (names.ATTENTION_MASK, (rows, bucket)),
        (names.OUTPUT_HIDDEN_STATES, (1, rows, spec.hidden_size)),
    )


def _head_shapes(spec: ModelSpec, top_k: int, rows: int) -> Shapes:
    return (
        (names.HIDDEN_STATES, (1, rows, spec.hidden_size)),
        (names.NOISE, (1, spec.vocab_size)),
        (names.TOP_TOKENS, (rows, top_k)),
        (names.TOP_LOGPROBS, (rows, top_k)),
    )


def _target_shapes(spec: ModelSpec, bucket: int, rows: int, logit_rows: int) -> Shapes:
    return (
        (names.INPUT_IDS, (1, rows)),
        (names.POSITION_IDS, (1, rows)),
        (names.ATTENTION_MASK, (rows, bucket)),
        (names.WRITE_INDEX, (1,)),
        (names.LOGIT_ROWS, (logit_rows,)),
        (names.LOGITS, (logit_rows, spec.vocab_size)),
    )
