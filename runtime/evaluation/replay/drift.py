"""How far drafted over lone time drifts from one start to another, by what earlier starts on this machine saw."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runtime.evaluation.statistics import NORMAL, student
from runtime.machine.cache import exclusive, write_cache
from s2d_trt.reading import read_json

PRIOR, WEIGHT = 0.035, 4.0
"""What was measured for docs/evaluation.md, expected before there are starts to compare; it counts for so many."""
APART = 60.0
"""Seconds. A start this soon after the last one says nothing of drift, and takes its place."""
MOST = 32


def drift(history: Sequence[float]) -> float:
    """The standard deviation between starts, of the logarithms that starts saw: their spread pooled with the prior (a
    scaled inverse chi-square prior of the variance, as in Gelman et al., Bayesian Data Analysis, section 2.6). It is as
    much larger as Student's 90 % interval is wider than the normal one.
    """
    mean = sum(history) / max(1, len(history))
    spread = sum((each - mean) ** 2 for each in history)
    freedom = WEIGHT + max(0, len(history) - 1)
    return math.sqrt((WEIGHT * PRIOR**2 + spread) / freedom) * student(freedom) / NORMAL


def remembered(path: Path, logarithm: float) -> list[float]:
    """What starts saw, the current one included; it is kept in ``path`` for the next."""
    now = time.time()
    with exclusive(path):
        try:
            kept = msgspec.convert(read_json(path), list[tuple[float, float]])
        except (OSError, ValueError):
            kept = []
        if kept and abs(now - kept[-1][0]) < APART:
            kept.pop()
        kept = [*kept, (now, logarithm)][-MOST:]
        write_cache(path, json.dumps(kept))
    return [each for _, each in kept]
