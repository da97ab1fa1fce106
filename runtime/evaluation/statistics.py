"""Spread and comparison of measured figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

RESAMPLES = 2000
NORMAL = 1.645
"""The normal distribution's 95 % quantile."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the limits between which it lies with some probability."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def groups_of(labels: Sequence[str]) -> list[np.ndarray]:
    """Indices of each label's entries, labels in their order of appearance. Entries without label stand alone."""
    groups: dict[object, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label or index, []).append(index)
    return [np.array(members) for members in groups.values()]


def bootstrap(
    statistic: Callable[[np.ndarray], float], labels: Sequence[str], level: float = 0.95, seed: int = 0
) -> Interval:
    """The interval of ``statistic`` (of an array of indices) when whole groups of entries are drawn again.

    Texts of one source file resemble each other, so files are drawn, not texts (the percentile bootstrap, Efron 1979).
    Differences and ratios of two methods are paired if the statistic takes both from the same indices.
    """
    groups, rng = groups_of(labels), np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([groups[group] for group in rng.integers(0, len(groups), len(groups))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(np.arange(len(labels))), float(low), float(high))


def widened(interval: Interval, groups: int, noise: float) -> Interval:
    """A 90 % bootstrap interval of a ratio, as wide as few groups deserve, and for a relative error ``noise`` besides.

    The bootstrap of n groups is too narrow by sqrt((n - 1) / n), and by normal for Student's quantiles.
    """
    if groups < 2 or interval.low <= 0:
        return interval
    freedom = groups - 1
    student = NORMAL + (NORMAL**3 + NORMAL) / (4 * freedom)
    error = math.log(interval.high / interval.low) / (2 * NORMAL) * math.sqrt(groups / freedom)
    factor = math.exp(student * math.hypot(error, noise))
    return Interval(interval.value, interval.value / factor, interval.value * factor)


def gain(ours: np.ndarray, theirs: np.ndarray, labels: Sequence[str]) -> Interval:
    """How many times as fast ours is as theirs, given the milliseconds of each text under both."""
    return bootstrap(lambda chosen: float(theirs[chosen].sum() / ours[chosen].sum()), labels)


def spread(values: Sequence[float]) -> float:
    """The median distance to the median, as a share of it."""
    middle = median(values)
    return median(abs(value - middle) for value in values) / middle if middle else 0.0
