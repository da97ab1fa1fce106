"""The cost-aware policy in a batch: what pays alone may not pay beside others, and drafting never costs the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from runtime.drafting.adaptive import COLD_STEPS, CostAware
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.learned import Earnings, Learned
from runtime.drafting.policy import Load, Prospect
from runtime.drafting.proposal import Batch, Outcome, Proposal, StepTimes
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

TEXTS = (1, 2, 4, 8)
FOR_ONE_TOKEN = math.log(0.8)
"""What the draft gives every token."""


def priced(verify: float, free: int, row: float, segment: float, segment_row: float = 0.0) -> Costs:
    """Milliseconds of a verify call, of each row of it beyond the ``free`` ones, of a segment, and of a row of that."""
    verifying = tuple(verify + row * max(0, rows - free) for rows in WIDTHS)
    drafting = tuple(segment + segment_row * rows for rows in WIDTHS)
    lanes = tuple((count, 0.02 * verify * (count - 1)) for count in TEXTS[1:])
    return Costs(verifying, (drafting,), (0.1 * segment,) * len(WIDTHS), lanes, lanes)


ROWS_FREE_AT_FIRST = priced(verify=10.0, free=8, row=1.0, segment=0.8)
USELESS = priced(verify=10.0, free=8, row=1.0, segment=2.0)


@dataclass(frozen=True)
class Lived:
    """A step of a batch."""

    tokens: int
    rows: int
    ms: float
    drafted: int


def live(learned: Learned, texts: int, accepted: int, steps: int, cold: int = 0) -> list[Lived]:
    """Steps of so many texts that draft alike; of each chain the target accepts at most ``accepted`` tokens.

    Time passes as the measured costs say, but for drafting in the first ``cold`` steps, which takes 20 times as long.
    """
    planners, costs, lived = [CostAware(learned) for _ in range(texts)], learned.costs, []
    usual = 1.0
    for number in range(steps):
        load, trees, draft_ms = Load(texts, round((texts - 1) * usual), texts), [], 0.0
        budgets = [planner.plan(Prospect(1), load) for planner in planners]
        exits: list[list[int]] = []
        for budget in budgets:
            builder, answered = TreeBuilder(0, TreeShape(), budget.floor), []
            while budget.drafts and len(answered) < 5 and (not answered or budget.continues(builder.frontier_logprobs)):
                candidates = budget.calibrated(0, [[FOR_ONE_TOKEN]])
                draft_ms += budget.costs.exit_ms(0, 1, 1)
                budget.answers(0, builder.frontier_logprobs, candidates[0], 1)
                builder.expand([[1]], candidates, [[FOR_ONE_TOKEN]])
                answered.append(0)
            trees.append(builder.finish(budget.size, chain=True))
            exits.append(answered)
        paths = [list(range(1 + min(accepted, len(tree) - 1))) for tree in trees]
        draft_ms *= 20 if number < cold else 1
        rows, tokens = sum(map(len, trees)), sum(map(len, paths))
        verify_ms, drafted = costs.verify_ms(rows, texts), sum(map(bool, exits))
        times = StepTimes(draft_ms / 1e3, verify_ms / 1e3, (verify_ms + draft_ms) / 1e3)
        batch = Batch(texts, drafted, rows, tokens, lanes=texts)
        for planner, budget, tree, answered, path in zip(planners, budgets, trees, exits, paths, strict=True):
            planner.learn(budget, Outcome(Proposal(tree, answered), path, times, shared=batch))
        usual += (rows / texts - usual) / 4
        lived.append(Lived(tokens, rows, verify_ms + draft_ms, drafted))
    return lived


def rate(lived: list[Lived]) -> float:
    """Tokens per millisecond."""
    return sum(step.tokens for step in lived) / sum(step.ms for step in lived)


def plain_rate(costs: Costs, texts: int) -> float:
    return texts / costs.verify_ms(texts, texts)


@pytest.mark.parametrize("texts", TEXTS)
def test_a_draft_that_is_never_right_costs_a_batch_next_to_nothing(texts: int) -> None:
    lived = live(Learned(1, USELESS), texts, accepted=0, steps=1500)
    assert rate(lived[300:]) >= 0.98 * plain_rate(USELESS, texts)
    assert any(step.drafted for step in lived)


@pytest.mark.parametrize("texts", TEXTS)
def test_a_draft_that_is_right_makes_a_batch_of_any_size_faster_where_rows_are_cheap(texts: int) -> None:
    cheap = priced(verify=10.0, free=64, row=0.1, segment=0.5)
    lived = live(Learned(1, cheap), texts, accepted=5, steps=300)
    assert rate(lived[100:]) > 1.5 * plain_rate(cheap, texts)


@pytest.mark.parametrize("texts", TEXTS)
def test_slow_first_steps_do_not_end_drafting_in_a_batch_of_any_size(texts: int) -> None:
    cheap = priced(verify=10.0, free=64, row=0.1, segment=0.5)
    lived = live(Learned(1, cheap), texts, accepted=5, steps=40, cold=COLD_STEPS)
    assert sum(step.drafted for step in lived) > 0.9 * 40 * texts


def test_the_more_texts_share_a_call_the_fewer_tokens_each_drafts() -> None:
    rows = []
    for texts in TEXTS:
        lived = live(Learned(1, ROWS_FREE_AT_FIRST), texts, accepted=2, steps=400)[200:]
        rows.append(sum(step.rows for step in lived) / len(lived) / texts)
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > 2.5
    assert rows[-1] < 0.75 * rows[0]


@pytest.mark.parametrize("texts", TEXTS)
def test_no_batch_is_slower_than_without_drafting(texts: int) -> None:
    for accepted in (0, 1, 2):
        lived = live(Learned(1, ROWS_FREE_AT_FIRST), texts, accepted, steps=900)
        assert rate(lived[300:]) >= 0.98 * plain_rate(ROWS_FREE_AT_FIRST, texts)


def test_what_a_full_batch_learns_does_not_end_drafting_of_a_text_alone() -> None:
    learned = Learned(1, ROWS_FREE_AT_FIRST)
    live(learned, 8, accepted=1, steps=400)
    assert CostAware(learned).plan(Prospect(1)).drafts


def test_batches_of_about_the_same_size_learn_together() -> None:
    learned = Learned(1, USELESS)
    assert learned.economy(3) is learned.economy(4)
    assert learned.economy(5) is learned.economy(8)
    assert len({id(learned.economy(texts)) for texts in TEXTS}) == len(TEXTS)


@pytest.mark.parametrize("texts", TEXTS)
def test_before_any_step_a_batch_earns_what_plain_decoding_earns(texts: int) -> None:
    earnings = Learned(1, USELESS).economy(texts).earnings[0]
    assert texts * earnings.rate == pytest.approx(texts * plain_rate(USELESS, texts))


def test_the_texts_of_a_batch_count_their_step_once() -> None:
    costs, texts = ROWS_FREE_AT_FIRST, 4
    learned, slow_ms = Learned(1, costs), 3 * costs.verify_ms(texts, texts)
    planners = [CostAware(learned) for _ in range(texts)]
    expected = Earnings(costs.verify_ms(texts, texts) / texts)
    times = StepTimes(0.0, slow_ms / 1e3, slow_ms / 1e3)
    for _ in range(10):
        expected.observe(texts, slow_ms)
        for planner in planners:
            budget = planner.plan(Prospect(None), Load(texts, texts - 1, texts))
            batch = Batch(texts, 0, texts, texts, lanes=texts)
            planner.learn(budget, Outcome(Proposal(Tree.chain([0])), [0], times, shared=batch))
    economy = learned.economy(texts)
    assert economy.earnings[0].rate == pytest.approx(expected.rate, rel=0.02)
    assert 2.0 < economy.verify_slowness.value < 3.0
