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
FEWEST_GROUPS = 3
"""Of fewer source files the texts are drawn one by one."""


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


def student(freedom: float) -> float:
    """The 95 % quantile of Student's distribution, nearly."""
    return NORMAL + (NORMAL**3 + NORMAL) / (4 * freedom)


def predicted(
    ours: np.ndarray, theirs: np.ndarray, labels: Sequence[str], noise: float, measured: int | None = None
) -> Interval:
    """The ratio of two methods' times (theirs over ours) and where it lies with 90 %, at a relative error ``noise`` of
    all times besides the chance of the texts: the ratio of all texts, or that of ``measured`` other ones.

    On the scale of logarithms: the bootstrap's error of n groups is too small by sqrt((n - 1) / n), and is normal for
    Student's quantiles; a mean of m other texts differs from that of n by sqrt(1 + n / m) times the error of n.
    """
    if len(set(labels)) < FEWEST_GROUPS:
        labels = [""] * len(labels)
    drawn = bootstrap(lambda chosen: float(theirs[chosen].sum() / ours[chosen].sum()), labels, 0.9)
    groups = len(groups_of(labels))
    if groups < 2 or drawn.low <= 0:
        return drawn
    error = math.log(drawn.high / drawn.low) / (2 * NORMAL) * math.sqrt(groups / (groups - 1))
    others = math.sqrt(1 + len(labels) / measured) if measured else 1.0
    factor = math.exp(math.hypot(student(groups - 1) * error * others, NORMAL * noise))
    return Interval(drawn.value, drawn.value / factor, drawn.value * factor)


def gain(ours: np.ndarray, theirs: np.ndarray, labels: Sequence[str]) -> Interval:
    """How many times as fast ours is as theirs, given the milliseconds of each text under both."""
    return bootstrap(lambda chosen: float(theirs[chosen].sum() / ours[chosen].sum()), labels)


def spread(values: Sequence[float]) -> float:
    """The median distance to the median, as a share of it."""
    middle = median(values)
    return median(abs(value - middle) for value in values) / middle if middle else 0.0
