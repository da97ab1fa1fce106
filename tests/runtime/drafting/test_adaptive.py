"""The cost-aware policy: work is done exactly where it pays, and a draft that never pays costs next to nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.adaptive import (
    LARGEST_TREE,
    LONGEST_CHAIN,
    MOST_PASSED_OVER,
    Adaptive,
    AdaptiveBudget,
    CostAware,
)
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.learned import FIRST_TRIAL_SHARE, LEAST_TRIAL_SHARE, Learned
from runtime.drafting.policy import Prospect
from runtime.drafting.proposal import NO_EXIT, Outcome, Proposal, StepTimes
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

EXITS = 3
COPIED = tuple(-0.09 * count for count in range(1, 17))
"""Cumulative log-probabilities of 16 tokens that n-gram lookup found."""


def priced(verify: float, row: float, segment: float, head: float = 0.05) -> Costs:
    """Milliseconds of a verify call and of each further row of it, of a segment, and of the head."""
    flat = tuple(segment + 0.001 * rows for rows in WIDTHS)
    verifying = tuple(verify + row * (rows - 1) for rows in WIDTHS)
    return Costs(verifying, (flat,) * EXITS, tuple(head for _ in WIDTHS))


CHEAP_DRAFT = priced(verify=10.0, row=0.1, segment=0.5)
DEAR_DRAFT = priced(verify=1.0, row=0.5, segment=5.0)
FOR_ONE_TOKEN = math.log(0.9)
"""What the draft gives every token."""


@dataclass(frozen=True)
class Lived:
    """A step: whether it drafted, how many tokens, and its milliseconds."""

    drafted: bool
    levels: int
    draft_ms: float
    total_ms: float


def live(
    planner: CostAware, accepts: int, steps: int, copied: Sequence[float] = (), host_ms: float = 0.0
) -> list[Lived]:
    """Steps that draft a chain of at most three, of which the target accepts ``accepts`` tokens.

    Time passes as the measured costs say; a drafted step takes ``host_ms`` more outside the engines' calls.
    """
    costs, lived = planner.learned.costs, []
    for _ in range(steps):
        budget = planner.plan(Prospect(1, copied))
        builder, exits, draft_ms, rows = TreeBuilder(0, TreeShape(), budget.floor), [], 0.0, 1
        while budget.drafts and len(exits) < 3 and (not exits or budget.continues(builder.frontier_logprobs)):
            index, candidates = 0, budget.calibrated(0, [[FOR_ONE_TOKEN]])
            draft_ms += costs.exit_ms(0, rows, 1)
            while not budget.answers(index, builder.frontier_logprobs, candidates[0], 1):
                index += 1
                draft_ms += costs.exit_ms(index, 1, 1)
            builder.expand([[1]], candidates, [[FOR_ONE_TOKEN]])
            exits.append(index)
        if copied:
            builder.graft([1] * len(copied), copied)
        tree = builder.finish(budget.size, chain=True)
        path = list(range(1 + min(accepts, len(tree) - 1)))
        verify_ms = costs.verify_ms(len(tree))
        total_ms = verify_ms + draft_ms + (host_ms if exits else 0.0)
        times = StepTimes(draft_ms / 1e3, verify_ms / 1e3, total_ms / 1e3)
        planner.learn(budget, Outcome(Proposal(tree, exits), path, times, min(len(copied), accepts)))
        lived.append(Lived(budget.drafts, len(exits), draft_ms, total_ms))
    return lived


def new(costs: Costs = CHEAP_DRAFT) -> CostAware:
    return CostAware(Learned(EXITS, costs))


def first_budget(costs: Costs = CHEAP_DRAFT, backlog: int | None = 1) -> AdaptiveBudget:
    return new(costs).plan(Prospect(backlog))


def trial_share(lived: list[Lived]) -> float:
    """Share of the time that went into drafting."""
    return sum(step.draft_ms for step in lived) / sum(step.total_ms for step in lived)


# Whether to draft


def test_a_draft_that_pays_is_used_in_every_step() -> None:
    assert all(step.drafted for step in live(new(), accepts=3, steps=200))


def test_where_no_draft_model_can_draft_none_is_asked() -> None:
    assert not first_budget(backlog=None).drafts


def test_a_draft_that_never_pays_is_tried_at_first_and_then_for_its_share_of_the_time() -> None:
    lived = live(new(DEAR_DRAFT), accepts=0, steps=2000)
    assert lived[0].drafted
    assert trial_share(lived[100:]) <= 1.5 * FIRST_TRIAL_SHARE


def test_a_draft_that_goes_on_not_paying_is_tried_less_and_less_but_never_given_up() -> None:
    planner = new(DEAR_DRAFT)
    live(planner, accepts=0, steps=4000)
    later = live(planner, accepts=0, steps=20_000)
    assert 0 < trial_share(later) <= 1.5 * LEAST_TRIAL_SHARE


def test_a_draft_that_begins_to_pay_is_taken_up_again() -> None:
    planner = new()
    live(planner, accepts=0, steps=300)
    assert not all(step.drafted for step in live(planner, accepts=0, steps=20))
    live(planner, accepts=3, steps=600)
    assert all(step.drafted for step in live(planner, accepts=3, steps=20))


@pytest.mark.parametrize("slow", [1, 3, 6])
def test_slow_first_steps_do_not_end_drafting(slow: int) -> None:
    planner = new()
    for _ in range(slow):
        budget = planner.plan(Prospect(1))
        depth(budget, [0.9, 0.9, 0.9])
        planner.learn(budget, Outcome(Proposal(chain_of([0.9]), [0]), [0], StepTimes(5.0, 0.01, 5.01)))
    assert all(step.drafted for step in live(planner, accepts=3, steps=50))


def test_the_work_between_the_drafts_calls_counts_as_drafting() -> None:
    quick, slow = new(), new()
    quickly, slowly = (live(planner, 1, 300, host_ms=ms)[-50:] for planner, ms in ((quick, 0.0), (slow, 30.0)))
    assert sum(step.levels for step in slowly) < sum(step.levels for step in quickly)


def test_steps_that_copy_the_text_do_not_make_the_others_look_dear() -> None:
    # A copy of 16 tokens earns more in a step than any draft can, and says nothing of steps without one.
    planner = new(priced(verify=10.0, row=0.1, segment=2.0))
    for _ in range(200):
        live(planner, accepts=1, steps=1)
        live(planner, accepts=16, steps=1, copied=COPIED)
    assert all(step.drafted for step in live(planner, accepts=1, steps=20))


def test_beside_a_copy_that_is_always_right_the_draft_is_not_run() -> None:
    planner = new(priced(verify=10.0, row=0.1, segment=2.0))
    lived = live(planner, accepts=16, steps=600, copied=COPIED)
    assert trial_share(lived[300:]) <= 1.5 * FIRST_TRIAL_SHARE


def test_what_one_text_learns_serves_the_next_of_the_same_target() -> None:
    learned = Learned(EXITS, DEAR_DRAFT)
    live(CostAware(learned), accepts=0, steps=200)
    assert not CostAware(learned).plan(Prospect(1)).drafts
    assert first_budget(DEAR_DRAFT).drafts


# How much to draft


@given(st.lists(st.floats(-8.0, -0.01), min_size=1, max_size=60), st.floats(0.01, 3.0))
def test_the_tree_has_exactly_the_nodes_that_pay(logprobs: list[float], row_ms: float) -> None:
    # Before the first step a token is worth the 10 ms of plain decoding.
    ordered, price = [0.0, *sorted(logprobs, reverse=True)], row_ms / 10.0
    size = first_budget(priced(verify=10.0, row=row_ms, segment=0.5)).size(ordered)
    assert 1 <= size <= len(ordered)
    assert all(math.exp(logprob) >= price - 1e-9 for logprob in ordered[1:size])
    assert all(math.exp(logprob) <= price + 1e-9 for logprob in ordered[size:])


@given(st.floats(0.01, 3.0))
def test_a_node_that_does_not_pay_for_its_row_is_never_added(row_ms: float) -> None:
    assert math.exp(first_budget(priced(10.0, row_ms, 0.5)).floor) == pytest.approx(row_ms / 10.0)


@pytest.mark.parametrize("backlog", [1, None])
def test_copied_tokens_are_priced_with_and_without_a_draft_model(backlog: int | None) -> None:
    budget = first_budget(priced(verify=10.0, row=5.0, segment=0.5), backlog)
    assert budget.size([0.0, math.log(0.9), math.log(0.8), math.log(0.4), math.log(0.3)]) == 3


def test_growth_ends_where_the_next_level_would_not_pay() -> None:
    budget = first_budget()
    going = [budget.continues([math.log(path)]) for path in (0.9, 0.5, 0.1, 0.01, 0.0001)]
    assert going[0]
    assert not going[-1]
    assert all(earlier >= later for earlier, later in pairwise(going))


def test_nothing_grows_below_an_empty_frontier() -> None:
    assert not first_budget().continues([])


def test_what_is_drafted_is_a_chain_where_only_a_chain_may_be() -> None:
    assert Adaptive().largest_tree(chain=True) == LONGEST_CHAIN
    assert LONGEST_CHAIN.is_chain
    assert Adaptive().largest_tree(chain=False) == LARGEST_TREE
    assert Adaptive().needs_costs
    assert Adaptive().looks_up


# Which exit answers


def depth(budget: AdaptiveBudget, confidences: Sequence[float], backlog: int = 1) -> int:
    """The exit that answers at a depth of a chain at which the exits have these confidences."""
    return next(
        index for index, sure in enumerate(confidences) if budget.answers(index, [0.0], [math.log(sure)], backlog)
    )


def test_the_last_exit_always_answers() -> None:
    budget = first_budget()
    budget.answers(0, [0.0], [math.log(0.5)], 1)
    budget.answers(1, [0.0], [math.log(0.5)], 1)
    assert budget.answers(2, [0.0], [math.log(1e-4)], 0)


def test_deeper_exits_run_only_until_they_are_seen_to_add_nothing() -> None:
    budget = first_budget()
    answered = [depth(budget, [0.6, 0.6, 0.6]) for _ in range(200)]
    assert max(answered) > 0
    assert set(answered[100:]) == {0}


def test_a_deeper_exit_that_adds_much_keeps_running_and_the_one_before_it_answers_now_and_then() -> None:
    budget = first_budget()
    answered = [depth(budget, [0.3, 0.9, 0.9]) for _ in range(200)]
    assert sum(exit_index > 0 for exit_index in answered) > 150
    first = [step for step, exit_index in enumerate(answered) if exit_index == 0]
    assert max(later - earlier for earlier, later in pairwise(first)) <= MOST_PASSED_OVER + 1


def test_a_long_backlog_before_a_segment_is_cleared_when_the_profit_forgone_equals_its_cost() -> None:
    costs = priced(verify=10.0, row=0.1, segment=0.5)
    planner = new(costs)
    budget = planner.plan(Prospect(1))
    # Ski rental: the profit forgone by refusing is at most the cost of the backlog.
    gain = 0.5
    for backlog in (1, 10_000):
        profit_of_one = gain - costs.exit_ms(1, 1, 1) / 10.0
        cost = (costs.exit_ms(1, backlog, 1) - costs.exit_ms(1, 1, 1)) / 10.0
        refusals = 0
        while not planner.pays(budget, 1, profit_of_one, backlog, 1):
            refusals += 1
        assert refusals == pytest.approx(max(0.0, cost / profit_of_one - 1), abs=1)
    assert refusals > 3


def test_a_backlog_of_one_row_is_no_reason_to_refuse() -> None:
    assert not first_budget().answers(0, [0.0], [math.log(0.3)], 1)


def test_the_prompts_backlog_is_cleared_at_once() -> None:
    assert first_budget(backlog=5000).drafts


# What is learned of candidates


def chain_of(probabilities: list[float]) -> Tree:
    """A chain whose tokens the draft proposed with these probabilities."""
    builder = TreeBuilder(0, TreeShape(depth=len(probabilities) - 1))
    for probability in probabilities:
        builder.expand([[1]], [[math.log(probability)]])
    return builder.finish()


def judged(planner: CostAware, tree: Tree, exits: list[int], path: list[int]) -> None:
    """Learn from a step in which the target accepted ``path``."""
    budget = planner.plan(Prospect(1))
    depth(budget, [0.6, 0.6, 0.6])
    planner.learn(budget, Outcome(Proposal(tree, exits), path, StepTimes(0.001, 0.01, 0.012)))


def acceptance(planner: CostAware, exit_index: int, best: float, others: Sequence[float] = ()) -> list[float]:
    """The probabilities of acceptance that a step expects of candidates with these of the draft."""
    row = [math.log(probability) for probability in (best, *others)]
    return [math.exp(each) for each in planner.plan(Prospect(1)).calibrated(exit_index, [row])[0]]


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_only_candidates_that_the_target_judged_teach(accepted: int) -> None:
    planner = new()
    judged(planner, chain_of([0.9, 0.8, 0.7]), [0, 1, 2], list(range(accepted + 1)))
    taught = [acceptance(planner, exit_index, 0.5)[0] != pytest.approx(0.5) for exit_index in range(EXITS)]
    assert taught == [depth <= accepted for depth in range(EXITS)]


def test_copied_tokens_teach_nothing_of_the_draft() -> None:
    planner, builder = new(), TreeBuilder(0, TreeShape())
    builder.expand([[1]], [[math.log(0.9)]])
    builder.graft([2, 3], [-0.1, -0.2])
    tree, other = builder.finish(), new()
    judged(planner, tree, [0], [0])
    judged(other, chain_of([0.9]), [0], [0])
    assert acceptance(planner, 0, 0.5, [0.3]) == acceptance(other, 0, 0.5, [0.3])


def test_best_and_other_candidates_learn_only_their_own_verdicts_also_where_the_two_cross() -> None:
    # The target always rejects the draft's best candidate and always takes its second one.
    planner = new()
    for _ in range(400):
        budget = planner.plan(Prospect(1))
        own = [[math.log(0.6), math.log(0.3)]]
        builder = TreeBuilder(0, TreeShape(depth=0, top_k=2))
        builder.expand([[1, 2]], budget.calibrated(0, own), own)
        tree = builder.finish()
        judged(planner, tree, [0], [0, tree.tokens.tolist().index(2)])
    best, second = acceptance(planner, 0, 0.6, [0.3])
    assert best < 0.1
    assert second > 0.9


def test_each_exit_learns_for_itself() -> None:
    planner = new()
    for _ in range(300):
        judged(planner, chain_of([0.8]), [0], [0])
        judged(planner, chain_of([0.8]), [2], [0, 1])
    assert acceptance(planner, 0, 0.8)[0] < 0.2
    assert acceptance(planner, 1, 0.8)[0] == pytest.approx(0.8)
    assert acceptance(planner, 2, 0.8)[0] > 0.9


@pytest.mark.parametrize(("root", "between"), [(0, 2), (5, 0), (3, 2)])
@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_forced_tokens_are_no_evidence_of_exits_levels_or_costs(root: int, between: int, accepted: int) -> None:
    """The same three drafted tokens, with forced ones before the first and the second, and without."""
    with_forced, without = new(), new()
    probabilities, exits = [0.9, 0.8, 0.7], [0, 1, 2]
    builder, levels = TreeBuilder(0, TreeShape()), list[int]()
    for probability, exit_index, forced in zip(probabilities, exits, [root, between, 0], strict=True):
        for _ in range(forced):
            builder.force(2)
        builder.expand([[1]], [[math.log(probability)]])
        levels += [NO_EXIT] * forced + [exit_index]
    tree = builder.finish()
    # The target accepts what is forced behind an accepted token.
    drafted = [node for node in range(len(tree)) if tree.ranks[node] >= 0]
    last = drafted[accepted] - 1 if accepted < len(drafted) else len(tree) - 1
    for planner, proposed, answered, path in (
        (with_forced, tree, levels, list(range(last + 1))),
        (without, chain_of(probabilities), exits, list(range(accepted + 1))),
    ):
        judged(planner, proposed, answered, path)
    for exit_index in range(EXITS):
        assert acceptance(with_forced, exit_index, 0.5) == acceptance(without, exit_index, 0.5)
    assert with_forced.learned.next_level.value == without.learned.next_level.value


def test_rows_of_forced_tokens_are_priced_as_backlog() -> None:
    forced, backlog = new().plan(Prospect(1)), new().plan(Prospect(6))
    forced.also_runs(5)
    for budget in (forced, backlog):
        budget.answers(0, [0.0], [math.log(0.9)], 1)
    assert forced.predicted_ms == backlog.predicted_ms
    assert forced.backlog_ms == pytest.approx(backlog.backlog_ms)


def test_forced_tokens_do_not_tell_a_passage_that_copies_the_text() -> None:
    assert new().plan(Prospect(1, forced=9)).kind == new().plan(Prospect(1)).kind == 0
    assert new().plan(Prospect(1, COPIED)).kind > 0
