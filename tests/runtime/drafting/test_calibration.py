"""Learning how often the target accepts what the draft proposes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.averages import Fading
from runtime.drafting.calibration import Calibration

LOGPROB = st.floats(-30.0, 0.0)


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
    return math.exp(calibration.apply(math.log(probability)))


@given(LOGPROB)
def test_at_first_the_draft_is_trusted(logprob: float) -> None:
    assert Calibration().apply(logprob) == pytest.approx(logprob, abs=1e-5)


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


@given(LOGPROB, LOGPROB, st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), max_size=60))
def test_a_more_probable_candidate_is_never_thought_less_acceptable(
    one: float, other: float, seen: list[tuple[float, bool]]
) -> None:
    calibration = Calibration()
    for probability, accepted in seen:
        calibration.observe(logit(probability), accepted)
    assert calibration.apply(min(one, other)) <= calibration.apply(max(one, other)) + 1e-12
    assert calibration.apply(one) <= 0


def test_a_banned_candidate_stays_impossible() -> None:
    calibration = Calibration()
    calibration.slope, calibration.offset = 0.5, 3.0
    assert calibration.apply(-math.inf) == -math.inf


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
