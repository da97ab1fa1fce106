"""What a call costs on this machine: milliseconds of each draft segment, the head and the target, by rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from msgspec import Meta

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that are measured."""
MOST_ROWS = 256
CONTEXT = 64
"""Tokens before the measured rows."""
Milliseconds = Annotated[float, Meta(ge=0, le=1e7)]
Lanes = Annotated[int, Meta(ge=2, le=64)]


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a call at ``WIDTHS`` rows: ``verify`` of the target, ``segments`` and ``head`` of the draft.

    Without a draft model ``segments`` and ``head`` are empty. ``verify_lanes`` and ``segment_lanes`` have, by number of
    lanes, the milliseconds that the rows of so many texts take more than as many rows of one. ``token`` is what a
    committed token of a text adds to the target's call, ``segment_tokens`` what it adds to each segment's. ``steady``
    says whether the rounds of the measurement agreed: on a busy machine they do not, and the next start measures again.
    ``measurements`` counts the starts that contributed.
    """

    verify: tuple[Milliseconds, ...]
    segments: tuple[tuple[Milliseconds, ...], ...] = ()
    head: tuple[Milliseconds, ...] = ()
    verify_lanes: tuple[tuple[Lanes, Milliseconds], ...] = ()
    segment_lanes: tuple[tuple[Lanes, Milliseconds], ...] = ()
    token: Milliseconds = 0.0
    steady: bool = True
    measurements: Annotated[int, Meta(ge=1)] = 1
    segment_tokens: tuple[Milliseconds, ...] = ()

    def verify_ms(self, rows: int, lanes: int = 1, context: int | None = None) -> float:
        """Milliseconds to verify ``rows`` rows in ``lanes`` lanes that hold ``context`` tokens in all."""
        longer = 0.0 if context is None else self.token * max(0, context - CONTEXT * lanes)
        return _in_calls(self._verify, self._verify_lanes, rows, lanes) + longer

    def exit_ms(self, index: int, backlog: int, rows: int, lanes: int = 1) -> float:
        """Milliseconds to run ``backlog`` rows through segment ``index`` and ``rows`` rows through the head."""
        return self.segment_ms(index, backlog, lanes) + self._head[rows]

    def segment_ms(self, index: int, rows: int, lanes: int = 1, context: int | None = None) -> float:
        """Milliseconds to run ``rows`` rows through segment ``index``, in lanes that hold ``context`` tokens in all."""
        longer = 0.0
        if context is not None and self.segment_tokens:
            longer = self.segment_tokens[index] * max(0, context - CONTEXT * lanes)
        calls, rest = divmod(rows, MOST_ROWS)
        full = calls * self._segments[index][-1]
        return full + _in_calls(self._segments[index], self._segment_lanes, rest, lanes) + longer

    def head_ms(self, rows: int) -> float:
        """Milliseconds of the head on ``rows`` rows."""
        return self._head[min(rows, MOST_ROWS)]

    @cached_property
    def _verify(self) -> list[float]:
        return _by_rows(self.verify)

    @cached_property
    def _segments(self) -> list[list[float]]:
        return [_by_rows(segment) for segment in self.segments]

    @cached_property
    def _head(self) -> list[float]:
        return _by_rows(self.head)

    @cached_property
    def _verify_lanes(self) -> list[float]:
        return _by_lanes(self.verify_lanes)

    @cached_property
    def _segment_lanes(self) -> list[float]:
        return _by_lanes(self.segment_lanes)

    def merged(self, other: Costs) -> Costs:
        """The smaller of each pair of times: what disturbs a measurement only adds to it."""
        return Costs(
            _least(self.verify, other.verify),
            tuple(_least(ours, theirs) for ours, theirs in zip(self.segments, other.segments, strict=True)),
            _least(self.head, other.head),
            _least_lanes(self.verify_lanes, other.verify_lanes),
            _least_lanes(self.segment_lanes, other.segment_lanes),
            min(self.token, other.token),
            self.steady,
            self.measurements + other.measurements,
            _least(self.segment_tokens, other.segment_tokens),
        )


@dataclass(frozen=True, slots=True)
class SharedCosts:
    """One text's share of the costs, in a batch of texts that draft alike (goodput: SmartSpec, arXiv 2406.14066).

    Its rows cost what they add to the target's call, which has ``others`` rows besides. Of the draft's calls it bears
    an equal part.
    """

    costs: Costs
    texts: int = 1
    others: int = 0
    lanes: int = 1

    def verify_ms(self, rows: int) -> float:
        """Milliseconds of the target's call where this text has ``rows`` rows in it."""
        return self.costs.verify_ms(self.others + rows, self.lanes)

    def exit_ms(self, index: int, backlog: int, rows: int) -> float:
        """The share of a call of segment and head in which each text has so many rows."""
        texts = self.texts
        return self.costs.exit_ms(index, backlog * texts, min(MOST_ROWS, rows * texts), texts) / texts


def _in_calls(by_rows: list[float], by_lanes: list[float], rows: int, lanes: int) -> float:
    """Milliseconds of as many calls as the lanes take, none with more rows than were measured."""
    if lanes == 1 and rows <= MOST_ROWS:
        return by_rows[rows]
    calls = max(-(-lanes // (len(by_lanes) - 1)), -(-rows // MOST_ROWS), 1)
    return calls * (by_rows[-(-rows // calls)] + by_lanes[-(-lanes // calls)])


def _by_lanes(extra: tuple[tuple[int, float], ...]) -> list[float]:
    """What 0 to the largest number of lanes add to a call: linear between those that were measured."""
    lanes, milliseconds = zip((1, 0.0), *extra, strict=True)
    return [0.0, *np.interp(np.arange(1, lanes[-1] + 1), lanes, milliseconds).tolist()]


def _least_lanes(
    ours: tuple[tuple[int, float], ...], theirs: tuple[tuple[int, float], ...]
) -> tuple[tuple[int, float], ...]:
    """Of each number of lanes the smaller extra; a start for fewer texts has measured fewer of them."""
    least = dict(theirs)
    for lanes, extra in ours:
        least[lanes] = min(extra, least.get(lanes, extra))
    return tuple(sorted(least.items()))


def _least(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(min, ours, theirs))


def _by_rows(costs: tuple[float, ...]) -> list[float]:
    """Costs of 0 to ``MOST_ROWS`` rows: linear between the widths, and beyond the last width along the last piece.

    More rows never cost less there, even where the measurement of the last two widths says so.
    """
    rows = np.arange(MOST_ROWS + 1)
    slope = max(0.0, costs[-1] - costs[-2]) / (WIDTHS[-1] - WIDTHS[-2])
    milliseconds = np.interp(rows, WIDTHS, costs) + slope * np.maximum(0, rows - WIDTHS[-1])
    return [0.0, *milliseconds[1:].tolist()]
