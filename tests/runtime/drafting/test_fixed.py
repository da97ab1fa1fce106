"""The published policy: fixed thresholds, and a tree of fixed shape."""

from __future__ import annotations

import math

import pytest

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.learned import PairStatistics
from runtime.drafting.policy import Prospect
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError

SIX_TO_TWELVE = (6, 9, 12)


def test_an_exit_answers_when_its_confidence_is_above_its_threshold() -> None:
    budget = FixedThresholds((0.5, 0.25, 0.0)).budget(SIX_TO_TWELVE)
    assert budget.answers(0, [0.0], [math.log(0.51)], 1)
    assert not budget.answers(0, [0.0], [math.log(0.49)], 1)
    assert budget.answers(1, [0.0], [math.log(0.49)], 1)


def test_a_confidence_that_equals_its_threshold_is_not_above_it() -> None:
    assert not FixedThresholds((1.0, 0.0)).budget((6, 12)).answers(0, [0.0], [0.0], 1)


@pytest.mark.parametrize(("rule", "answers"), [("mean", False), ("max", True)])
def test_the_rule_decides_how_the_confidences_of_a_level_are_joined(rule: str, answers: bool) -> None:
    budget = FixedThresholds((0.5, 0.0), rule).budget((6, 12))
    assert budget.answers(0, [math.log(0.9), math.log(0.1)], [math.log(0.2), math.log(0.9)], 1) == answers


def test_default_thresholds_are_one_half_at_every_exit_but_the_last() -> None:
    assert FixedThresholds().budget(SIX_TO_TWELVE).thresholds == (0.5, 0.5, 0.0)
    assert FixedThresholds().budget((12,)).thresholds == (0.0,)


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.5, 0.5, 0.5, 0.0)])
def test_a_wrong_number_of_thresholds_is_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="thresholds for 3 exits 6,9,12"):
        FixedThresholds(thresholds).check(SIX_TO_TWELVE)
    with pytest.raises(OptionError):
        FixedThresholds(thresholds).open(PairStatistics(SIX_TO_TWELVE, None), 0.0)


def test_without_a_draft_model_any_thresholds_will_do() -> None:
    FixedThresholds((0.5, 0.0)).check(())
    FixedThresholds((0.5, 0.0)).open(PairStatistics((), None), 0.0)


def test_every_step_has_the_same_budget_and_needs_no_measured_costs() -> None:
    policy = FixedThresholds()
    planner = policy.open(PairStatistics(SIX_TO_TWELVE, None), 0.0)
    first, second = planner.plan(Prospect(900)), planner.plan(Prospect(None, [-0.1]))
    assert first is second
    assert first.drafts
    assert not policy.needs_costs


@pytest.mark.parametrize("chain", [True, False])
def test_the_tree_is_a_chain_of_three_without_lookup_unless_the_user_says_otherwise(chain: bool) -> None:
    assert FixedThresholds().largest_tree(chain) == TreeShape(depth=2, top_k=1)
    assert not FixedThresholds().looks_up
