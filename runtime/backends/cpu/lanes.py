"""Packing the rows of several texts into one call (see ``export.lanes``, which builds the graphs for it)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np

from runtime.backends import Clock, Lane, lanes_for
from runtime.backends.cpu.kv import BUCKET, KVCache
from runtime.backends.cpu.session import Engine
from runtime.backends.cpu.signature import layers_signature
from s2d_trt import names
from s2d_trt.bundle import Bundle

AnyLane = TypeVar("AnyLane", bound=Lane)


class LayerEngine:
    """A graph with attention, in a form for each number of lanes. Forms for several lanes open when first needed."""

    def __init__(self, bundle: Bundle, graph: str, layers: range, clock: Clock, threads: int | None) -> None:
        manifest = bundle.manifest
        self._bundle, self._graph, self._layers, self._clock, self._threads = bundle, graph, layers, clock, threads
        self._width, self._rotary_rows = manifest.model.kv_width, manifest.cache.max_length
        self.lanes = tuple(count for count in manifest.lanes if names.in_lanes(graph, count) in manifest.graphs)
        self._forms = {1: self._open(1)}
        self._orders: dict[int, list[object]] = {}

    def _open(self, lanes: int) -> Engine:
        signature = layers_signature(self._bundle.manifest, self._graph, self._layers, lanes)
        return Engine(self._bundle, names.in_lanes(self._graph, lanes), signature, self._clock, self._threads)

    def open_lanes(self, texts: int) -> None:
        """Open the forms that calls of up to so many texts need; where the bundle was replaced, those that are open
        must do.
        """
        for count in lanes_for(self.lanes, texts):
            if count not in self._forms and not self._is_there(count):
                self.lanes = tuple(sorted(self._forms))
                return
            self.form(count)

    def _is_there(self, lanes: int) -> bool:
        manifest = self._bundle.manifest
        files = manifest.graphs[names.in_lanes(self._graph, lanes)], manifest.weights
        return all(self._bundle.path(file).exists() for file in files)

    def form(self, lanes: int) -> Engine:
        """The form for so many lanes."""
        if lanes not in self._forms:
            self._forms[lanes] = self._open(lanes)
        return self._forms[lanes]

    @cached_property
    def idle_cache(self) -> KVCache:
        """The cache of empty lanes, whose content no text reads."""
        return KVCache(len(self._layers), BUCKET, self._width)

    def cuts(self, lanes: Sequence[AnyLane]) -> Sequence[Sequence[AnyLane]]:
        """``lanes`` in as few calls as the forms and the rotary table allow, of about the same number of lanes."""
        if len(lanes) == 1:
            return [lanes]
        size = min(len(lanes), self.lanes[-1])
        while True:
            calls = -(-len(lanes) // size)
            size = -(-len(lanes) // calls)
            cut = [lanes[start : start + size] for start in range(0, len(lanes), size)]
            if size == 1 or all(map(self._fits, cut)):
                return cut
            size -= 1

    def _fits(self, lanes: Sequence[Lane]) -> bool:
        """RotaryEmbedding takes at most as many rows as its table has; each lane may have a dummy beside its rows."""
        return sum(len(lane.tokens) for lane in lanes) + self.lanes[-1] <= self._rotary_rows

    def prepare(self, lanes: Sequence[Lane], caches: Sequence[KVCache], company: bool) -> tuple[Engine, list[slice]]:
        """Fill the inputs that say which rows the layers compute; what they compute is left to the caller.

        With ``company`` no row is alone in its lane. Returns the engine, and where each lane's rows are packed.
        """
        if len(lanes) == 1:
            return self._prepare_one(lanes[0], caches[0])
        count = next(count for count in self.lanes if count >= len(lanes))
        engine = self.form(count)
        order = self._arranged(count, lanes)
        packed = attended = 0
        attention_rows: list[int] = []
        packed_rows: list[int] = []
        positions: list[int] = []
        lane_rows, write_index = engine.buffer(names.LANE_ROWS, count), engine.buffer(names.WRITE_INDEX, count)
        places: list[slice] = [slice(0)] * len(lanes)
        for index, number in enumerate(order):
            lane = lanes[number] if number >= 0 else None
            rows = len(lane.tokens) if lane else 0
            dummies = 1 if rows == 0 or (rows == 1 and company) else 0
            start = lane.start if lane else 0
            _fill_lane(engine, index, lane, caches[number] if lane else self.idle_cache, self._layers, dummies)
            lane_rows[index], write_index[index] = rows + dummies, start
            attention_rows += [*range(packed, packed + rows), *[max(0, packed + rows - 1)] * dummies]
            packed_rows += range(attended, attended + rows)
            positions += [*(lane.positions.tolist() if lane else ()), *[start] * dummies]
            if lane:
                places[number] = slice(packed, packed + rows)
            packed, attended = packed + rows, attended + rows + dummies
        engine.buffer(names.ATTENTION_ROWS, attended)[:] = attention_rows
        engine.buffer(names.PACKED_ROWS, packed)[:] = packed_rows
        engine.buffer(names.POSITION_IDS, 1, attended)[0] = positions
        return engine, places

    def _prepare_one(self, lane: Lane, cache: KVCache) -> tuple[Engine, list[slice]]:
        engine, rows = self._forms[1], len(lane.tokens)
        bucket = cache.hold(lane.start + rows)
        engine.bind_cache(cache, bucket, self._layers)
        engine.buffer(names.POSITION_IDS, 1, rows)[0] = lane.positions
        engine.buffer(names.WRITE_INDEX, 1)[0] = lane.start
        _fill_mask(engine.buffer(names.ATTENTION_MASK, rows, bucket), lane.base, lane.visible)
        return engine, [slice(0, rows)]

    def _arranged(self, count: int, lanes: Sequence[Lane]) -> list[int]:
        """For each lane of the form, which of ``lanes`` it takes: the one that it took before, so that its cache is
        bound already; -1 leaves it empty.
        """
        waiting = {id(lane.context): number for number, lane in enumerate(lanes)}
        order = [waiting.pop(id(context), -1) for context in self._orders.get(count, [None] * count)]
        others = iter(waiting.values())
        order = [next(others, -1) if number < 0 else number for number in order]
        self._orders[count] = [lanes[number].context if number >= 0 else None for number in order]
        return order


def _fill_lane(engine: Engine, index: int, lane: Lane | None, cache: KVCache, layers: range, dummies: int) -> None:
    """Bind a lane's cache and fill its mask; a dummy row comes last, reads only itself, and no row reads it."""
    rows, start = (len(lane.tokens), lane.start) if lane else (0, 0)
    bucket = cache.hold(start + rows + dummies)
    engine.bind_cache(cache, bucket, layers, index)
    mask = engine.buffer(names.lane_mask(index), rows + dummies, bucket)
    if lane:
        _fill_mask(mask[:rows], lane.base, lane.visible)
    if dummies:
        mask[rows:] = False
        mask[rows:, start + rows] = True


def _fill_mask(mask: np.ndarray, base: int, visible: np.ndarray) -> None:
    stop = base + visible.shape[1]
    mask[:, :base] = True
    mask[:, base:stop] = visible
    mask[:, stop:] = False
