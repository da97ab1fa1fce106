"""Which exit answers: the confidence of a depth and the published thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.policy import confidence
from s2d_trt.errors import OptionError

LOGPROBS = st.floats(-30.0, 0.0)
FRONTIERS = st.lists(st.tuples(LOGPROBS, LOGPROBS), min_size=1, max_size=8)


def arrays(frontier: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    paths, children = zip(*frontier, strict=True)
    return np.array(paths), np.array(children)


@given(FRONTIERS)
def test_mean_confidence_weighs_each_path_by_its_probability(frontier: list[tuple[float, float]]) -> None:
    total = math.fsum(math.exp(path) for path, _ in frontier)
    expected = math.fsum(math.exp(path + child) for path, child in frontier) / total
    assert confidence(*arrays(frontier), "mean") == pytest.approx(expected)


@given(FRONTIERS)
def test_max_confidence_is_the_best_child_of_any_path(frontier: list[tuple[float, float]]) -> None:
    assert confidence(*arrays(frontier), "max") == pytest.approx(math.exp(max(child for _, child in frontier)))


@given(path=LOGPROBS, child=LOGPROBS)
def test_confidence_of_a_chain_is_the_maximum_probability_under_both_rules(path: float, child: float) -> None:
    paths, children = arrays([(path, child)])
    assert confidence(paths, children, "mean") == confidence(paths, children, "max") == pytest.approx(math.exp(child))


def test_confidence_of_improbable_paths_does_not_underflow() -> None:
    assert confidence(np.array([-5000.0, -5001.0]), np.log([0.5, 0.5]), "mean") == pytest.approx(0.5)


def test_an_exit_answers_when_its_confidence_is_above_its_threshold() -> None:
    policy = FixedThresholds((0.5, 0.25, 0.0))
    root = np.zeros(1)
    assert policy.answers(0, root, np.log([0.51]), 1)
    assert not policy.answers(0, root, np.log([0.49]), 1)
    assert policy.answers(1, root, np.log([0.49]), 1)


def test_a_confidence_that_equals_its_threshold_is_not_above_it() -> None:
    assert not FixedThresholds((1.0, 0.0)).answers(0, np.zeros(1), np.zeros(1), 1)


def test_the_last_exit_always_answers() -> None:
    assert FixedThresholds((2.0, 2.0)).answers(1, np.zeros(1), np.array([-100.0]), 0)


def test_default_thresholds_are_one_half_at_every_exit_but_the_last() -> None:
    assert FixedThresholds().fit((6, 9, 12)).thresholds == (0.5, 0.5, 0.0)
    assert FixedThresholds().fit((12,)).thresholds == (0.0,)


def test_fitting_keeps_the_rule() -> None:
    assert FixedThresholds(rule="max").fit((6, 12)).rule == "max"


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.5, 0.5, 0.5, 0.0)])
def test_a_wrong_number_of_thresholds_is_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="thresholds for 3 exits 6,9,12"):
        FixedThresholds(thresholds).fit((6, 9, 12))
