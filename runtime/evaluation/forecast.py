"""Forecasting load from recorded rates of requests, and when it reaches what a machine can serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2d_trt.errors import OptionError

SEASONS = 7
"""As many are averaged: a single one repeats its own chance."""


def read_rates(path: Path) -> list[float]:
    """Rates at even intervals, one number a line; of several columns the last. Raises OptionError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        rates = [float(line.split(",")[-1]) for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError) as cause:
        raise OptionError(f"{path} holds no rates ({cause}); write one number on a line") from cause
    if min(rates, default=-1.0) < 0:
        raise OptionError(f"{path} holds no rates (empty, or below 0); write one number on a line")
    return rates


def seasonal(rates: Sequence[float], season: int, ahead: int) -> np.ndarray:
    """The next ``ahead`` rates: the mean course of the last ``SEASONS`` seasons, at the level of the last one, moved by
    what seasons grew on average.

    Raises OptionError where there are fewer than two seasons.
    """
    if season < 1 or len(rates) < 2 * season:
        raise OptionError(f"{len(rates)} rates are fewer than two seasons of {season}; record longer")
    whole = len(rates) // season
    seasons = np.array(rates[len(rates) - whole * season :]).reshape(whole, season)
    levels = seasons.mean(axis=1)
    growth = (levels[-1] - levels[0]) / (whole - 1)
    course = seasons[-SEASONS:].mean(axis=0) / max(levels[-SEASONS:].mean(), 1e-12)
    steps = np.arange(ahead)
    forecast: np.ndarray = course[steps % season] * np.maximum(0.0, levels[-1] + growth * (1 + steps // season))
    return forecast


def intervals_to_saturation(rates: Sequence[float], season: int, capacity: float, ahead: int = 10_000) -> int | None:
    """After how many intervals the forecast first exceeds ``capacity``; None where it does not within ``ahead``."""
    over = np.flatnonzero(seasonal(rates, season, ahead) > capacity)
    return int(over[0]) + 1 if len(over) else None


def backtest(rates: Sequence[float], season: int) -> float:
    """Mean absolute error of forecasts one season ahead, as a share of the mean rate."""
    if len(rates) < 3 * season:
        raise OptionError(f"{len(rates)} rates are fewer than three seasons of {season}; record longer")
    errors = [
        np.abs(seasonal(rates[:end], season, season) - np.array(rates[end : end + season])).mean()
        for end in range(2 * season, len(rates) - season + 1, season)
    ]
    return float(np.mean(errors) / max(np.mean(rates), 1e-12))
