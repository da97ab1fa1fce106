"""Memory of several texts side by side, so that one call can update the caches of neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runtime.backends import HeadLane, Lane, TargetLane
from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.call import LayerInputs, Steps, Work
from runtime.backends.cuda.graph import CacheForm, DeviceCache
from runtime.backends.cuda.memory import Gpu
from runtime.backends.cuda.window import Shape, Window

L = TypeVar("L", bound=Lane)
A = TypeVar("A", bound=Lane | HeadLane)
Key = tuple[int, Shape, int]
"""The part of the layers that a call runs through, its sizes, and its rows of logits."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kind of call whose inputs the host can write: its key, its inputs, its steps, and what queues them."""

    key: Key
    inputs: LayerInputs
    steps: Steps
    work: Work


class Pool:
    """Caches of up to ``form.lanes`` texts in each of ``parts``, which are ranges of layers.

    A pool begins with memory for one text, and doubles it where there is no room for one more: what one text needs does
    not depend on how many the graphs could take. ``calls`` are those prepared for the pool's present addresses.
    """

    def __init__(self, gpu: Gpu, form: CacheForm, parts: Sequence[range]) -> None:
        self.gpu, self.form = gpu, form
        self.caches = [DeviceCache(gpu, form, layers) for layers in parts]
        self.size, self._texts = 1, 0
        self.calls: dict[Key, Prepared] = {}
        self._used = [False] * form.lanes
        # In each part, the end of the rows that each text wrote last.
        self._stops = [[0] * form.lanes for _ in parts]

    @property
    def is_full(self) -> bool:
        """Whether one more text needs another pool."""
        return self._texts == self.form.lanes

    def add(self) -> int:
        """The number of one more text, whose caches are zeroed. Raises S2DError where there is no memory."""
        if self._texts == self.size:
            self.grow(min(2 * self.size, self.form.lanes))
        self.reset(self._texts)
        self._texts += 1
        return self._texts - 1

    def grow(self, size: int) -> None:
        """Move all texts to memory for ``size`` of them; calls that know the old addresses are forgotten."""
        self.gpu.wait()
        self.calls.clear()
        for cache in self.caches:
            cache.grow(size)
        self.size = size

    def starts(self, part: int, lanes: Sequence[Lane], window: Window) -> list[int]:
        """Where rows of each text of a window are written; dummy rows of one without a lane come behind its own."""
        chosen = {lane.context.text: lane.start for lane in lanes}
        return [chosen.get(text, self._stops[part][text]) for text in window.texts]

    def shape(self, part: int, lanes: Sequence[Lane], buckets: Buckets, least: int = 0) -> Shape | None:
        """The sizes of a call with these lanes, None if they do not fit into one; a lane alone always does.

        ``least`` is the smallest number of rows of a call with one lane.
        """
        form, longest = self.form, max(len(lane.tokens) for lane in lanes)
        window = Window.around([lane.context.text for lane in lanes], self.size)
        start = max(self.starts(part, lanes, window))
        room = form.slots - start
        if window.count == 1:
            rows = buckets.fit(max(longest, least), room)
            return Shape(rows, rows, window, form.view(start + rows))
        packed = sum(len(lane.tokens) for lane in lanes) + window.count - len(lanes)
        if longest > room or packed > buckets.largest:
            return None
        rows = buckets.fit(packed, buckets.largest)
        # Each pair of sizes is a kind of call, so those of the lanes are few: powers of two.
        lane_rows = min(1 << (longest - 1).bit_length(), rows)
        return Shape(rows, lane_rows if lane_rows <= room else longest, window, form.slots)

    def write(self, part: int, lanes: Sequence[Lane], prepared: Prepared) -> list[int]:
        """Write a call's inputs; the first packed row of each lane."""
        window, by_text = prepared.key[1].window, {lane.context.text: lane for lane in lanes}
        for text in window.texts:
            self._used[text] = True
        starts = self.starts(part, lanes, window)
        rows = prepared.inputs.fill([by_text.get(text) for text in window.texts], starts)
        return [rows[lane.context.text - window.first] for lane in lanes]

    def expect(self, part: int, lanes: Iterable[Lane]) -> None:
        """Note where the rows of these lanes will end; from then on dummy rows come behind them."""
        for lane in lanes:
            self._stops[part][lane.context.text] = lane.start + len(lane.tokens)

    def reset(self, text: int) -> None:
        """Queue the zeroing of a text's caches, if any call wrote to them."""
        if self._used[text]:
            for cache, stops in zip(self.caches, self._stops, strict=True):
                cache.clear(text)
                stops[text] = 0
            self._used[text] = False


class Member:
    """One text of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.text = pool, pool.add()


def by_pool(lanes: Iterable[A]) -> dict[Pool, list[A]]:
    """Lanes by the pool of their texts, in the pool's order."""
    groups: dict[Pool, list[A]] = {}
    for lane in lanes:
        groups.setdefault(lane.context.pool, []).append(lane)
    for group in groups.values():
        group.sort(key=lambda lane: lane.context.text)
    return groups


def cut(part: int, lanes: Sequence[L], buckets: Buckets) -> list[tuple[list[L], Shape]]:
    """Which lanes go into one call: texts of one pool, as many as it takes. Exact lanes get a call each."""
    calls: list[tuple[list[L], Shape]] = []
    for pool, group in by_pool(lanes).items():
        pool.expect(part, group)
        together: list[L] = []
        for lane in group:
            exact_rows = lane.exact_rows if isinstance(lane, TargetLane) else 0
            wider = pool.shape(part, [*together, lane], buckets) if together and not exact_rows else None
            if wider is not None:
                together.append(lane)
                calls[-1] = together, wider
                continue
            alone = pool.shape(part, [lane], buckets, exact_rows)
            assert alone is not None
            calls.append(([lane], alone))
            together = [] if exact_rows else [lane]
    return calls
