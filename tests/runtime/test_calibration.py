"""Learning how often the target accepts what the draft proposes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.calibration import Calibration, Fading, calibrate

LOGPROBS = st.lists(st.floats(-30.0, 0.0), min_size=1, max_size=6)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def trained(acceptance: float, given: float = 0.8, observations: int = 2000) -> Calibration:
    """Sees candidates of one probability accepted in a fixed share of the cases."""
    calibration, due = Calibration(), 0.0
    for _ in range(observations):
        due += acceptance
        calibration.observe(logit(given), due >= 1)
        due -= due >= 1
    return calibration


def acceptance_at(calibration: Calibration, probability: float) -> float:
    slope, offset = np.array([calibration.slope]), np.array([calibration.offset])
    return float(np.exp(calibrate(np.log([[probability]]), slope, offset))[0, 0])


@given(LOGPROBS)
def test_at_first_the_draft_is_trusted(logprobs: list[float]) -> None:
    row = np.array([logprobs])
    plain = calibrate(row, np.ones(len(logprobs)), np.zeros(len(logprobs)))
    assert plain == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("acceptance", [0.02, 0.3, 0.5, 0.8, 0.95])
def test_what_is_seen_often_is_learned(acceptance: float) -> None:
    assert acceptance_at(trained(acceptance), 0.8) == pytest.approx(acceptance, abs=0.05)


def test_one_observation_moves_the_estimate_a_little() -> None:
    calibration = Calibration()
    calibration.observe(logit(0.8), False)
    assert 0.6 < acceptance_at(calibration, 0.8) < 0.8


def test_a_text_that_changes_is_followed() -> None:
    calibration = trained(0.9)
    for _ in range(1500):
        calibration.observe(logit(0.8), False)
    assert acceptance_at(calibration, 0.8) < 0.1


@given(LOGPROBS, st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), max_size=60))
def test_a_more_probable_candidate_is_never_thought_less_acceptable(
    logprobs: list[float], seen: list[tuple[float, bool]]
) -> None:
    calibration = Calibration()
    for probability, accepted in seen:
        calibration.observe(logit(probability), accepted)
    count = len(logprobs)
    found = calibrate(
        np.array([sorted(logprobs)]), np.full(count, calibration.slope), np.full(count, calibration.offset)
    )
    assert (np.diff(found[0]) >= -1e-12).all()
    assert (found <= 0).all()


def test_a_banned_candidate_stays_impossible() -> None:
    assert calibrate(np.array([[-np.inf]]), np.array([0.5]), np.array([3.0]))[0, 0] == -np.inf


@given(st.floats(-10, 10), st.floats(0.1, 4), st.floats(-5, 5))
def test_the_drafts_own_log_odds_can_be_had_back(raw: float, slope: float, offset: float) -> None:
    calibration = Calibration()
    calibration.slope, calibration.offset = slope, offset
    assert calibration.undo(raw * slope + offset) == pytest.approx(raw, abs=1e-6)


def test_a_fading_mean_starts_at_its_prior_and_forgets_it() -> None:
    mean = Fading(0.5, prior=2.0, memory=10.0)
    assert mean.value == 0.5
    mean.observe(1.0)
    assert mean.value == pytest.approx((0.5 * 2 * 0.9 + 1) / (2 * 0.9 + 1))
    for _ in range(200):
        mean.observe(0.25)
    assert mean.value == pytest.approx(0.25)
