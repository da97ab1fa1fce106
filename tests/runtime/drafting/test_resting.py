"""Where nothing pays and steps are short, a text looks for something to draft now and then only."""

from __future__ import annotations

import pytest

from runtime.drafting.calls import run_together
from runtime.drafting.ngram import NgramLookup
from runtime.drafting.policy import ALONE, Load, Prospect, StepBudget, StepPlanner
from runtime.drafting.proposal import Outcome, Proposal, StepTimes
from runtime.drafting.text import FRUITLESS, LONGEST_REST, TextDrafting
from runtime.sampling.noise import Noise
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

PASSAGE = [5, 9, 200, 31, 7, 12, *range(60, 60 + LONGEST_REST)]
SHORT = 5e-4
"""Seconds of a step that looking would make longer by a tenth."""


class NothingPays(StepPlanner):
    """Drafts nothing, but copies what was found."""

    def __init__(self, hopeful: bool = False) -> None:
        self._hopeful = hopeful

    def plan(self, prospect: Prospect, load: Load = ALONE) -> StepBudget:
        budget = StepBudget()
        budget.drafts = False
        return budget

    def expects_to_draft(self, load: Load) -> bool:
        return self._hopeful


def text_of(prompt: list[int], planner: StepPlanner) -> TextDrafting:
    shape = TreeShape(depth=7, top_k=1, nodes=32)
    text = TextDrafting([], planner, shape, Noise(0, 0.0, 300), chain=True)
    text.sequences.append(NgramLookup().lease(prompt, shape))
    return text


def step(text: TextDrafting, token: int, seconds: float) -> Proposal | None:
    """One step, which adds ``token``; what was proposed, None where the text rests."""
    proposal = None if text.rests() else run_together([text.propose(0, 50)])[0]
    verified = proposal or Proposal(Tree.chain([0]))
    text.follow([token])
    text.learn(Outcome(verified, [0], StepTimes(0.0, seconds, seconds)))
    return proposal


def test_a_text_with_short_steps_rests_after_some_looks_without_success() -> None:
    text = text_of([1], NothingPays())
    looks = [step(text, 10 + index, SHORT) is not None for index in range(40)]
    assert all(looks[: FRUITLESS + 1])
    assert looks[FRUITLESS + 1 : FRUITLESS + 1 + 2 * (LONGEST_REST + 1)] == ([False] * LONGEST_REST + [True]) * 2


@pytest.mark.parametrize(("seconds", "hopeful"), [(60e-3, False), (SHORT, True)])
def test_a_text_never_rests_where_steps_are_long_or_drafting_is_expected_to_pay(seconds: float, hopeful: bool) -> None:
    text = text_of([1], NothingPays(hopeful))
    assert all(step(text, 10 + index, seconds) is not None for index in range(40))


def test_tokens_gained_in_a_rest_are_known_to_the_next_look() -> None:
    text = text_of([*PASSAGE, *range(100, 110)], NothingPays())
    for index in range(FRUITLESS + 1):
        step(text, 110 + index, SHORT)
    for token in PASSAGE[:LONGEST_REST]:
        assert step(text, token, SHORT) is None
    assert not text.rests()
    assert (
        run_together([text.propose(PASSAGE[LONGEST_REST], 50)])[0].tree.tokens[1:5].tolist()
        == PASSAGE[LONGEST_REST:][:4]
    )


def test_a_look_that_finds_something_ends_the_resting() -> None:
    text = text_of([*PASSAGE, *range(100, 110)], NothingPays())
    for index in range(FRUITLESS + 1):
        step(text, 110 + index, SHORT)
    for token in PASSAGE[:LONGEST_REST]:
        step(text, token, SHORT)
    assert len((step(text, PASSAGE[LONGEST_REST], SHORT) or Proposal(Tree.chain([0]))).tree) > 1
    assert all(step(text, token, SHORT) is not None for token in PASSAGE[LONGEST_REST + 1 :])
