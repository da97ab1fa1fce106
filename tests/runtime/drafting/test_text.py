"""All drafters of one text: they share a tree, its budget and the text that they follow."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from runtime.drafting.adaptive import Adaptive, CostAware
from runtime.drafting.calls import run_together
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.learned import Learned, PairStatistics
from runtime.drafting.ngram import LONGEST_DRAFT, NgramLookup
from runtime.drafting.policy import DraftingPolicy, StepPlanner
from runtime.drafting.proposal import Outcome, Proposal, StepTimes
from runtime.drafting.sorted_draft import SortedDraft
from runtime.drafting.text import TextDrafting
from runtime.sampling.noise import Noise
from runtime.tree.shape import TreeShape

VOCAB = 300
REPEATING = [5, 9, 200, 31, 7, 12] * 4
PLAIN = list(range(10, 34))
FLAT = (1.0,) * len(WIDTHS)


def drafting(
    prompt: Sequence[int],
    draft: SortedDraft | None,
    policy: DraftingPolicy | StepPlanner,
    lookup: bool = True,
    chain: bool = True,
    shape: TreeShape | None = None,
) -> TextDrafting:
    """What decodes ``prompt`` with these drafters, the model first."""
    if isinstance(policy, DraftingPolicy):
        shape = shape or policy.largest_tree(chain)
        exits = draft.exits if draft else ()
        policy = policy.open(PairStatistics(exits, Costs(FLAT, (FLAT,) * len(exits), FLAT)), 0.0)
    shape = shape or TreeShape()
    text = TextDrafting([], policy, shape, Noise(0, 0.0, VOCAB), chain)
    for drafter in (draft, NgramLookup() if lookup else None):
        if drafter is not None and (sequence := drafter.lease(prompt, shape)) is not None:
            text.sequences.append(sequence)
    return text


def proposed(text: TextDrafting, root: int, room: int = 50) -> Proposal:
    """What a step of this text alone proposes."""
    return run_together([text.propose(root, room)])[0]


@pytest.fixture(params=["chain", "tree"])
def chain(request: pytest.FixtureRequest) -> bool:
    return request.param == "chain"


# The published policy with lookup


def test_fixed_thresholds_draft_a_chain_of_three(draft: SortedDraft) -> None:
    text = drafting(REPEATING, draft, FixedThresholds(), lookup=False)
    proposal = proposed(text, REPEATING[-1])
    assert (len(proposal.tree), len(proposal.exits)) == (4, 3)
    text.release()


def test_copied_tokens_extend_or_replace_the_chain_of_three(draft: SortedDraft) -> None:
    text = drafting(REPEATING, draft, FixedThresholds())
    tree = proposed(text, REPEATING[-1]).tree
    assert tree.is_chain
    assert tree.tokens[1:].tolist() == (REPEATING * 4)[:LONGEST_DRAFT]
    text.release()


def test_copied_tokens_that_begin_as_the_draft_does_extend_its_chain(draft: SortedDraft) -> None:
    ending, after, drafted = [40, 41, 42, 43, 44, 45, 46, 47], [50, 51, 52, 53], -1
    for _ in range(20):  # until the draft proposes what followed the same ending before
        before = max(drafted, 0)
        prompt = [*ending, before, *after, *PLAIN, *ending]
        text = drafting(prompt, draft, FixedThresholds(), lookup=False)
        drafted = int(proposed(text, prompt[-1]).tree.tokens[1])
        text.release()
        if drafted == before:
            break
    text = drafting(prompt, draft, FixedThresholds())
    tree = proposed(text, prompt[-1]).tree
    assert tree.tokens[1:6].tolist() == [drafted, *after]
    assert tree.ranks[1:6] == [0, -1, -1, -1, -1]
    text.release()


def test_a_text_without_repetition_is_drafted_as_without_lookup(draft: SortedDraft) -> None:
    trees = []
    for lookup in (False, True):
        text = drafting(PLAIN, draft, FixedThresholds(), lookup)
        trees.append(proposed(text, PLAIN[-1]).tree.tokens.tolist())
        text.release()
    assert trees[0] == trees[1]


def test_beside_a_tree_the_copied_tokens_are_a_branch_of_their_own(draft: SortedDraft) -> None:
    text = drafting(REPEATING, draft, FixedThresholds(), chain=False, shape=TreeShape(1, 2, nodes=40))
    tree = proposed(text, REPEATING[-1]).tree
    assert not tree.is_chain
    assert sum(rank < 0 for rank in tree.ranks) > 8
    children, node = tree.children(), 0
    for token in (REPEATING * 4)[:LONGEST_DRAFT]:
        node = children[node, token]
    text.release()


@pytest.mark.parametrize("room", [0, 1, 3])
def test_nothing_is_drafted_beyond_the_room(draft: SortedDraft, chain: bool, room: int) -> None:
    shape = TreeShape(depth=2, top_k=1 if chain else 3)
    text = drafting(REPEATING, draft, FixedThresholds(), chain=chain, shape=shape)
    assert max(proposed(text, REPEATING[-1], room).tree.depths) == room
    text.release()


# Without a draft model


@pytest.mark.parametrize("policy", [FixedThresholds(), Adaptive()])
def test_lookup_drafts_without_any_draft_model(policy: DraftingPolicy) -> None:
    text = drafting(REPEATING, None, policy)
    proposal = proposed(text, REPEATING[-1])
    assert proposal.tree.tokens[1:4].tolist() == REPEATING[:3]
    assert proposal.exits == []
    assert text.follow(REPEATING[:3]) == 3
    text.learn(Outcome(proposal, [0, 1, 2], StepTimes(0.0, 0.001, 0.001), 3))
    assert proposed(text, REPEATING[2]).tree.tokens[1:4].tolist() == REPEATING[3:6]


def test_without_any_drafter_only_the_root_is_verified() -> None:
    text = drafting(REPEATING, None, FixedThresholds(), lookup=False)
    assert len(proposed(text, REPEATING[-1]).tree) == 1


@pytest.mark.parametrize(("row_ms", "cut"), [(0.001, False), (8.0, True)])
def test_copied_tokens_are_verified_only_as_far_as_they_pay(row_ms: float, cut: bool) -> None:
    costs = Costs(tuple(10.0 + row_ms * (rows - 1) for rows in WIDTHS))
    text = drafting(REPEATING, None, CostAware(Learned(0, costs)), shape=TreeShape(nodes=32))
    assert (len(proposed(text, REPEATING[-1]).tree) < LONGEST_DRAFT // 2) == cut


def test_copied_tokens_are_priced_when_the_text_has_outgrown_the_draft(short_draft: SortedDraft) -> None:
    dear = Costs(tuple(10.0 + 8.0 * (rows - 1) for rows in WIDTHS), (FLAT,) * 3, FLAT)
    prompt = (REPEATING * 3)[:63]
    text = drafting(prompt, short_draft, CostAware(Learned(3, dear)), shape=TreeShape(nodes=32))
    assert len(text.sequences) == 2
    text.follow(REPEATING[3:5])
    assert len(text.sequences) == 1
    assert 1 <= len(proposed(text, REPEATING[4]).tree) < LONGEST_DRAFT // 2


# The text's life


@pytest.fixture
def free(short_draft: SortedDraft) -> object:
    """The sequence that the draft leases next."""
    sequence = short_draft.empty_sequence()
    sequence.release()
    return sequence


def test_a_drafter_that_cannot_hold_the_text_any_longer_is_released_and_the_others_go_on(
    short_draft: SortedDraft, free: object
) -> None:
    text = drafting((REPEATING * 3)[:62], short_draft, FixedThresholds())
    assert free in text.sequences
    text.follow(REPEATING[2:5])
    assert free not in text.sequences
    assert short_draft.empty_sequence() is free
    assert len(proposed(text, REPEATING[4]).tree) == 1 + LONGEST_DRAFT


def test_all_drafters_are_released_at_the_end_once(short_draft: SortedDraft, free: object) -> None:
    text = drafting(PLAIN, short_draft, FixedThresholds())
    text.release()
    text.release()
    assert text.sequences == []
    assert short_draft.empty_sequence() is free
    assert short_draft.empty_sequence() is not free


def test_the_clock_of_the_drafts_engines_counts_their_calls_for_every_text(draft: SortedDraft) -> None:
    for _ in range(2):
        text = drafting(PLAIN, draft, FixedThresholds())
        before, began = draft.engines.clock.seconds, time.perf_counter()
        proposed(text, PLAIN[-1])
        assert 0.0 < draft.engines.clock.seconds - before < time.perf_counter() - began
        text.release()


def test_where_the_budget_does_not_draft_the_model_does_not_run(draft: SortedDraft) -> None:
    dear = tuple(1000.0 for _ in WIDTHS)
    learned = Learned(3, Costs(FLAT, (dear,) * 3, FLAT))
    learned.economy().profits[0].observe(-100.0, 100.0)
    text = drafting(PLAIN, draft, CostAware(learned))
    before = draft.engines.clock.seconds
    proposal = proposed(text, PLAIN[-1])
    assert (len(proposal.tree), proposal.exits, draft.engines.clock.seconds) == (1, (), before)
    text.release()
