"""Statistics of one draft on one target: shared by texts, apart by temperature, held against the measured costs."""

from __future__ import annotations

import pytest

from runtime.drafting.adaptive import Adaptive, CostAware
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.learned import DISAGREEMENT, LEAST_STEPS, Earnings, Learned, PairStatistics
from runtime.drafting.policy import Prospect
from runtime.drafting.proposal import Outcome, Proposal, StepTimes
from runtime.tree.tree import Tree

FLAT = (1.0,) * len(WIDTHS)
EXITS, COSTS = (12,), Costs(FLAT, (FLAT,), FLAT)


def run(planner: CostAware, steps: int, draft: float = 1.0, verify: float = 1.0) -> None:
    """Steps of a root and one drafted level, which take so many times the measured milliseconds.

    ``draft`` 0 is a step without drafting.
    """
    for _ in range(steps):
        budget = planner.plan(Prospect(1))
        exits = []
        if draft:
            assert budget.answers(0, [0.0], [-0.1], 0)
            exits = [0]
        times = StepTimes(draft * 2e-3, verify * 1e-3, draft * 2e-3 + verify * 1e-3)
        planner.learn(budget, Outcome(Proposal(Tree.chain([1]), exits), [0], times))


def planner(pair: PairStatistics, temperature: float = 0.0, shared: bool = True) -> CostAware:
    return Adaptive(shared).open(pair, temperature)


@pytest.fixture
def pair() -> PairStatistics:
    return PairStatistics(EXITS, COSTS)


def test_before_any_step_the_rate_is_that_of_plain_decoding() -> None:
    assert Earnings(4.0).rate == 0.25


def test_the_rate_follows_the_tokens_and_the_milliseconds_of_the_steps() -> None:
    earnings = Earnings(4.0)
    for _ in range(300):
        earnings.observe(3, 6.0)
    assert earnings.rate == pytest.approx(0.5, abs=1e-3)


def test_texts_of_one_temperature_share_what_they_learn(pair: PairStatistics) -> None:
    assert planner(pair).learned is planner(pair).learned
    assert planner(pair).learned is not planner(pair, 0.7).learned


def test_texts_that_do_not_share_learn_each_for_itself(pair: PairStatistics) -> None:
    assert planner(pair, shared=False).learned is not planner(pair, shared=False).learned
    assert planner(pair, shared=False).learned is not planner(pair).learned


def test_times_that_agree_with_the_measured_costs_are_no_disagreement(pair: PairStatistics) -> None:
    run(planner(pair), 100)
    assert pair.disagreement == pytest.approx(1.0)


def test_a_machine_that_is_evenly_slower_is_no_disagreement(pair: PairStatistics) -> None:
    run(planner(pair), 200, draft=3.0, verify=3.0)
    assert pair.disagreement == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("draft", "verify"), [(3.0, 1.0), (1.0, 3.0)])
def test_a_draft_or_a_target_that_alone_is_slower_disagrees(pair: PairStatistics, draft: float, verify: float) -> None:
    run(planner(pair), 200, draft, verify)
    assert pair.disagreement > DISAGREEMENT


def test_a_few_steps_are_no_disagreement(pair: PairStatistics) -> None:
    run(planner(pair), LEAST_STEPS - 1, draft=9.0)
    assert pair.disagreement == 1.0


def test_without_a_draft_there_is_nothing_to_disagree_with(pair: PairStatistics) -> None:
    run(planner(pair), 200, draft=0.0, verify=3.0)
    assert pair.disagreement == 1.0


def test_the_temperature_that_disagrees_most_counts(pair: PairStatistics) -> None:
    run(planner(pair, 0.0), 200)
    run(planner(pair, 1.0), 200, draft=3.0)
    assert pair.disagreement > DISAGREEMENT
    assert PairStatistics(EXITS, COSTS).disagreement == 1.0


def test_any_number_of_temperatures_share_a_few_statistics(pair: PairStatistics) -> None:
    seen = {id(pair.learned(number / 1000)) for number in range(100_000)}
    assert len(seen) == 21
    assert pair.learned(0.0) is not pair.learned(0.01) is pair.learned(0.1)


def test_a_load_that_was_never_seen_starts_from_what_drafting_earned_under_a_lighter_one() -> None:
    learned = Learned(1, COSTS)
    for _ in range(200):
        learned.economy(1).profits[0].observe(-0.5)
    assert learned.economy(4).profits[0].value == pytest.approx(learned.economy(1).profits[0].value)
    assert learned.economy(4).profits[1].value == pytest.approx(0.4)
