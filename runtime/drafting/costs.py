"""What a call costs on this machine: milliseconds of each draft segment, the head and the target, by rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that are measured."""
MOST_ROWS = 256


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a call at ``WIDTHS`` rows: ``verify`` of the target, ``segments`` and ``head`` of the draft.

    Without a draft model ``segments`` and ``head`` are empty. ``steady`` says whether the rounds of the measurement
    agreed: on a busy machine they do not, and the next start measures again. ``measurements`` counts the starts that
    contributed.
    """

    verify: tuple[float, ...]
    segments: tuple[tuple[float, ...], ...] = ()
    head: tuple[float, ...] = ()
    steady: bool = True
    measurements: int = 1

    def verify_ms(self, rows: int) -> float:
        """Milliseconds to verify ``rows`` rows."""
        return self._verify[rows]

    def exit_ms(self, index: int, backlog: int, rows: int) -> float:
        """Milliseconds to run ``backlog`` rows through segment ``index`` and ``rows`` rows through the head."""
        segment = self._segments[index]
        calls, rest = divmod(backlog, MOST_ROWS)
        return calls * segment[-1] + segment[rest] + self._head[rows]

    @cached_property
    def _verify(self) -> list[float]:
        return _by_rows(self.verify)

    @cached_property
    def _segments(self) -> list[list[float]]:
        return [_by_rows(segment) for segment in self.segments]

    @cached_property
    def _head(self) -> list[float]:
        return _by_rows(self.head)

    def merged(self, other: Costs) -> Costs:
        """The smaller of each pair of times: what disturbs a measurement only adds to it."""
        return Costs(
            _least(self.verify, other.verify),
            tuple(_least(ours, theirs) for ours, theirs in zip(self.segments, other.segments, strict=True)),
            _least(self.head, other.head),
            self.steady,
            self.measurements + other.measurements,
        )


def _least(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(min, ours, theirs))


def _by_rows(costs: tuple[float, ...]) -> list[float]:
    """Costs of 0 to ``MOST_ROWS`` rows: linear between the widths, and beyond the last width along the last piece."""
    rows = np.arange(MOST_ROWS + 1)
    slope = (costs[-1] - costs[-2]) / (WIDTHS[-1] - WIDTHS[-2])
    milliseconds = np.interp(rows, WIDTHS, costs) + slope * np.maximum(0, rows - WIDTHS[-1])
    return [0.0, *milliseconds[1:].tolist()]
