"""Learning how often the target accepts what the draft proposes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.calibration import LARGEST_ODDS, Calibration, log_odds

LOGPROB = st.floats(-30.0, 0.0)


def trained(acceptance: float, given: float = 0.8, observations: int = 2000) -> Calibration:
    """Has seen candidates of one probability accepted in a fixed share of the cases."""
    calibration, due = Calibration(), 0.0
    for _ in range(observations):
        due += acceptance
        calibration.observe(math.log(given), due >= 1)
        due -= due >= 1
    return calibration


def acceptance_at(calibration: Calibration, probability: float) -> float:
    return math.exp(calibration.apply(math.log(probability)))


@given(LOGPROB)
def test_at_first_the_draft_is_trusted(logprob: float) -> None:
    assert Calibration().apply(logprob) == pytest.approx(logprob, abs=1e-5)


@pytest.mark.parametrize("acceptance", [0.02, 0.3, 0.5, 0.8, 0.95])
def test_the_share_that_is_accepted_is_learned(acceptance: float) -> None:
    assert acceptance_at(trained(acceptance), 0.8) == pytest.approx(acceptance, abs=0.05)


def test_one_observation_moves_the_estimate_a_little() -> None:
    calibration = Calibration()
    calibration.observe(math.log(0.8), False)
    assert 0.6 < acceptance_at(calibration, 0.8) < 0.8


def test_a_text_that_changes_is_followed() -> None:
    calibration = trained(0.9)
    for _ in range(1500):
        calibration.observe(math.log(0.8), False)
    assert acceptance_at(calibration, 0.8) < 0.1


@given(LOGPROB, LOGPROB, st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), max_size=60))
def test_a_more_probable_candidate_is_never_taken_for_less_acceptable(
    one: float, other: float, seen: list[tuple[float, bool]]
) -> None:
    calibration = Calibration()
    for probability, accepted in seen:
        calibration.observe(math.log(probability), accepted)
    assert calibration.apply(min(one, other)) <= calibration.apply(max(one, other)) + 1e-12
    assert calibration.apply(one) <= 0


def test_a_banned_candidate_stays_impossible() -> None:
    assert trained(0.95, given=0.1).apply(-math.inf) == -math.inf


@pytest.mark.parametrize("logprob", [0.0, -5e-324, -1e-30, -1e-9, -700.0, -1e9])
@pytest.mark.parametrize("accepted", [True, False])
def test_certain_and_impossible_candidates_teach_without_overflow(logprob: float, accepted: bool) -> None:
    calibration = Calibration()
    for _ in range(2000):
        calibration.observe(logprob, accepted)
    assert all(-math.inf < calibration.apply(each) <= 0 for each in (0.0, -1.0, logprob, -100.0))


@given(st.floats(-14.0, 14.0))
def test_log_odds_are_those_of_the_probability(odds: float) -> None:
    assert log_odds(-math.log1p(math.exp(-odds))) == pytest.approx(odds, abs=1e-6)


def test_log_odds_of_certainty_are_cut_off() -> None:
    assert log_odds(0.0) == log_odds(-1e-300) == pytest.approx(LARGEST_ODDS)
    assert log_odds(-math.inf) == -math.inf
