"""The confidence of a depth, and the budget that drafts all it may."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.policy import StepBudget, confidence

LOGPROBS = st.floats(-30.0, 0.0)
FRONTIERS = st.lists(st.tuples(LOGPROBS, LOGPROBS), min_size=1, max_size=8)


def lists(frontier: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [path for path, _ in frontier], [child for _, child in frontier]


@given(FRONTIERS)
def test_mean_confidence_weighs_each_path_by_its_probability(frontier: list[tuple[float, float]]) -> None:
    total = math.fsum(math.exp(path) for path, _ in frontier)
    expected = math.fsum(math.exp(path + child) for path, child in frontier) / total
    assert confidence(*lists(frontier), "mean") == pytest.approx(expected)


@given(FRONTIERS)
def test_max_confidence_is_the_best_child_of_any_path(frontier: list[tuple[float, float]]) -> None:
    assert confidence(*lists(frontier), "max") == pytest.approx(math.exp(max(child for _, child in frontier)))


@given(path=LOGPROBS, child=LOGPROBS)
def test_confidence_of_a_chain_is_the_maximum_probability_under_both_rules(path: float, child: float) -> None:
    assert confidence([path], [child], "mean") == confidence([path], [child], "max") == math.exp(child)


def test_confidence_of_improbable_paths_does_not_underflow() -> None:
    assert confidence([-5000.0, -5001.0], [math.log(0.5)] * 2, "mean") == pytest.approx(0.5)


def test_without_a_rule_of_its_own_a_budget_drafts_as_large_as_the_shape_allows() -> None:
    budget = StepBudget()
    assert budget.drafts
    assert budget.floor == -math.inf
    assert budget.calibrated(0, [[-1.0, -2.0]]) == [[-1.0, -2.0]]
    assert not budget.answers(0, [0.0], [0.0], 1)
    assert budget.continues([-100.0])
    assert not budget.continues([])
    assert budget.size([0.0, -50.0]) == 2
