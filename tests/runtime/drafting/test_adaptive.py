"""The cost-aware policy: work is done exactly where it pays, and a draft that never pays costs next to nothing."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.decoding.acceptance import Acceptance
from runtime.drafting.adaptive import LEAST_PROBING, PATIENCE, PROBING, CostAware, Learned
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.ngram import NgramDraft
from runtime.drafting.proposal import Proposal, StepTimes
from runtime.tree.tree import Tree

ROOT = np.zeros(1)


def priced(verify: float, row: float, segment: float, head: float = 0.05) -> Costs:
    """Milliseconds: a verify call and each further row of it, a segment, the head."""
    flat = tuple(segment + 0.001 * rows for rows in WIDTHS)
    return Costs(tuple(verify + row * (rows - 1) for rows in WIDTHS), (flat, flat, flat), tuple(head for _ in WIDTHS))


CHEAP_DRAFT = priced(verify=10.0, row=0.1, segment=0.5)
DEAR_DRAFT = priced(verify=1.0, row=0.5, segment=5.0)


def chain(probabilities: list[float]) -> Tree:
    """A chain whose tokens are proposed with these probabilities."""
    size = len(probabilities) + 1
    logprobs = np.concatenate([[0.0], np.cumsum(np.log(probabilities))])
    drafted = np.concatenate([[np.nan], np.log(probabilities)])
    return Tree(np.arange(size), np.arange(-1, size - 1), np.arange(size), logprobs, drafted)


def live(policy: CostAware, accepts: int, steps: int) -> list[bool]:
    """Run steps in which a drafted chain of three has ``accepts`` accepted; in which steps it drafted.

    Time passes as the policy's own costs say.
    """
    costs, drafted = policy._costs, []
    for _ in range(steps):
        begun = policy.begins(waiting=1)
        drafted.append(begun)
        proposal, draft_ms, rows = None, 0.0, 1
        if begun:
            policy.calibrated(0, np.log([[0.9]]))
            policy.answers(0, ROOT, np.log([0.9]), 1)
            proposal, rows = Proposal(chain([0.9, 0.9, 0.9]), [0, 0, 0]), 4
            draft_ms = costs.of_exit(0, 1, 1)
        path = list(range(1 + accepts)) if begun else [0]
        verify_ms = costs.of_verify[rows]
        seconds = StepTimes(draft_ms / 1e3, verify_ms / 1e3, (draft_ms + verify_ms) / 1e3)
        policy.learn(proposal, Acceptance(path, 0), seconds)
    return drafted


def begun(costs: Costs = CHEAP_DRAFT, exits: int = 3) -> CostAware:
    policy = CostAware(Learned(exits, costs))
    assert policy.begins(waiting=1)
    return policy


def test_a_draft_that_pays_is_used_in_every_step() -> None:
    assert all(live(CostAware(Learned(3, CHEAP_DRAFT)), accepts=3, steps=200))


def test_a_draft_that_never_pays_is_soon_left_alone() -> None:
    policy = CostAware(Learned(3, DEAR_DRAFT))
    drafted = live(policy, accepts=0, steps=1000)
    assert drafted[0]
    spent = sum(drafted[20:]) * (DEAR_DRAFT.of_exit(0, 1, 1) + 1.5)
    assert spent <= 2 * PROBING * 980


def test_a_draft_that_goes_on_not_paying_is_tried_less_and_less() -> None:
    policy = CostAware(Learned(3, DEAR_DRAFT))
    live(policy, accepts=0, steps=2000)
    tries = [step for step, drafted in enumerate(live(policy, accepts=0, steps=20_000)) if drafted]
    price = DEAR_DRAFT.of_exit(0, 1, 1) + 1.5
    assert 0 < len(tries) * price <= 2 * LEAST_PROBING * 20_000


def test_a_draft_that_begins_to_pay_is_taken_up_again() -> None:
    policy = CostAware(Learned(3, CHEAP_DRAFT))
    live(policy, accepts=0, steps=300)
    assert not all(live(policy, accepts=0, steps=20))
    live(policy, accepts=3, steps=300)
    assert all(live(policy, accepts=3, steps=20))


def test_one_slow_step_does_not_end_drafting() -> None:
    policy = begun()
    policy.answers(0, ROOT, np.log([0.9]), 1)
    policy.learn(Proposal(chain([0.9]), [0]), Acceptance([0], 0), StepTimes(5.0, 0.01, 5.01))
    assert all(live(policy, accepts=3, steps=50))


def test_steps_that_copy_the_text_do_not_make_the_others_look_dear() -> None:
    """A guess of 16 tokens earns more in a step than any draft can, and says nothing of where there is none."""
    policy = begun(priced(verify=10.0, row=0.1, segment=2.0))
    guess = NgramDraft(list(range(16)), 8)
    for _ in range(200):
        live(policy, accepts=1, steps=1)
        policy.begins(waiting=1, guess=guess)
        tree = chain([0.9] * 16)
        proposal = Proposal(dataclasses.replace(tree, tokens=np.array([99, *guess.tokens])), [], guess)
        policy.learn(proposal, Acceptance(list(range(17)), 0), StepTimes(0.0, 0.0116, 0.0116))
    assert all(live(policy, accepts=1, steps=20))


@pytest.mark.parametrize(("between", "grows"), [(0.0, True), (0.02, False)])
def test_the_work_between_the_drafts_calls_counts_as_drafting(between: float, grows: bool) -> None:
    policy = begun()
    for _ in range(20):
        policy.answers(0, ROOT, np.log([0.9]), 1)
        policy.learn(Proposal(chain([0.9]), [0]), Acceptance([0, 1], 0), StepTimes(0.0005, 0.01, 0.0105 + between))
        policy.begins(waiting=1)
    assert policy.continues(np.log([0.3])) == grows


def test_what_one_request_learns_serves_the_next_of_the_same_target() -> None:
    learned = Learned(3, DEAR_DRAFT)
    live(CostAware(learned), accepts=0, steps=200)
    assert not CostAware(learned).begins(waiting=1)
    assert CostAware(Learned(3, DEAR_DRAFT)).begins(waiting=1)


@given(st.lists(st.floats(-8.0, -0.01), min_size=1, max_size=60), st.floats(0.01, 3.0))
def test_the_tree_has_exactly_the_nodes_that_pay(logprobs: list[float], row: float) -> None:
    policy = begun(priced(verify=10.0, row=row, segment=0.5))
    ordered = np.array([0.0, *sorted(logprobs, reverse=True)])
    size = policy.size(ordered)
    price = policy._row_price * row
    assert 1 <= size <= len(ordered)
    assert all(math.exp(logprob) >= price - 1e-9 for logprob in ordered[1:size])
    assert all(math.exp(logprob) <= price + 1e-9 for logprob in ordered[size:])


def test_growth_ends_where_the_next_level_would_not_pay() -> None:
    policy = begun()
    going = [policy.continues(np.log([path])) for path in (0.9, 0.5, 0.1, 0.01, 0.0001)]
    assert going[0]
    assert not going[-1]
    assert all(earlier >= later for earlier, later in pairwise(going))


def test_nothing_grows_below_an_empty_frontier() -> None:
    assert not begun().continues(np.zeros(0))


def test_a_deeper_exit_runs_until_it_is_known_to_add_nothing() -> None:
    policy = begun()
    asked = 0
    while not policy.answers(0, ROOT, np.log([0.6]), 1):
        assert policy.answers(1, ROOT, np.log([0.6]), 1) or policy.answers(2, ROOT, np.log([0.6]), 0)
        asked += 1
    assert 1 <= asked < 100


def test_a_deeper_exit_that_adds_much_keeps_running_and_the_one_before_it_answers_now_and_then() -> None:
    policy, answered = begun(), []
    for _ in range(200):
        answered.append(policy.answers(0, ROOT, np.log([0.3]), 1))
        if not answered[-1]:
            policy.answers(1, ROOT, np.log([0.9]), 1)
    assert answered == ([False] * PATIENCE + [True]) * (200 // (PATIENCE + 1)) + [False] * (200 % (PATIENCE + 1))


def test_the_last_exit_always_answers() -> None:
    assert begun().answers(2, ROOT, np.log([1e-4]), 0)


def test_a_long_debt_before_a_segment_is_paid_when_what_was_forgone_amounts_to_it() -> None:
    waiting, policy = 10_000, begun()
    refusals = 0
    while policy.answers(0, ROOT, np.log([0.3]), waiting):
        refusals += 1
        assert refusals < 10_000
    assert refusals > 3
    assert begun().answers(0, ROOT, np.log([0.3]), 1) is False


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_only_candidates_put_to_the_target_teach(accepted: int) -> None:
    policy = begun()
    before = policy._learned.calibration[0][0]._oo
    proposal = Proposal(chain([0.9, 0.8, 0.7]), [0, 1, 2])
    policy.answers(0, ROOT, np.log([0.9]), 1)
    policy.learn(proposal, Acceptance(list(range(accepted + 1)), 0), StepTimes(0.001, 0.01, 0.012))
    taught = [best._oo != before for best, _ in policy._learned.calibration]
    assert taught == [depth <= accepted for depth in range(3)]
