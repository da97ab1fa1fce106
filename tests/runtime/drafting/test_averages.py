"""Means in which old observations fade."""

from __future__ import annotations

import pytest

from runtime.drafting.averages import FadingMean


def test_a_fading_mean_starts_at_its_prior_and_forgets_it() -> None:
    mean = FadingMean(0.5, prior=2.0, memory=10.0)
    assert mean.value == 0.5
    mean.observe(1.0)
    assert mean.value == pytest.approx((0.5 * 2 * 0.9 + 1) / (2 * 0.9 + 1))
    for _ in range(200):
        mean.observe(0.25)
    assert mean.value == pytest.approx(0.25)


def test_a_heavier_observation_counts_as_several() -> None:
    mean = FadingMean(0.0, prior=4.0, memory=1e9)
    mean.observe(4 * 3.0, weight=4.0)
    assert mean.value == pytest.approx(1.5)
