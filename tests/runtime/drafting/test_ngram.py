"""Continuations copied from the text itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.calls import run_together
from runtime.drafting.ngram import LONGEST_DRAFT, MATCH_LENGTHS, PRIORS, NgramDraft, NgramIndex, NgramLookup, NgramOdds
from runtime.drafting.policy import StepBudget
from runtime.sampling.noise import Noise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape

TEXTS = st.lists(st.integers(0, 3), max_size=60)
MOST = st.integers(1, 30)


def index_of(text: list[int]) -> NgramIndex:
    index = NgramIndex()
    index.extend(text)
    return index


def expected_draft(text: list[int], most: int) -> NgramDraft | None:
    """The specification: search for each n-gram from the text's end, longest n-gram first."""
    for length in reversed(MATCH_LENGTHS):
        for stop in range(len(text) - 1, length - 1, -1):
            if len(text) >= length and text[stop - length : stop] == text[-length:]:
                continued = list(text)
                while len(continued) < stop + min(most, LONGEST_DRAFT):
                    continued.append(continued[len(continued) - (len(text) - stop)])
                return NgramDraft(continued[stop : stop + min(most, LONGEST_DRAFT)], length)
    return None


@given(TEXTS, MOST)
def test_a_draft_is_what_followed_the_latest_occurrence_of_the_longest_n_gram(text: list[int], most: int) -> None:
    assert index_of(text).draft(most) == expected_draft(text, most)


@given(TEXTS, st.integers(0, 60), MOST)
def test_a_text_may_come_in_parts(text: list[int], cut: int, most: int) -> None:
    index = index_of(text[:cut])
    index.draft(most)
    index.extend(text[cut:])
    assert index.draft(most) == index_of(text).draft(most)


def test_a_text_that_repeats_itself_goes_on_repeating() -> None:
    assert index_of([1, 2, 3] * 4).draft(7) == NgramDraft([1, 2, 3, 1, 2, 3, 1], 8)


@pytest.mark.parametrize("text", [[], [1], [1, 1], [1, 2, 3, 4]])
def test_a_text_without_a_repeated_n_gram_gives_no_draft(text: list[int]) -> None:
    assert index_of(text).draft(5) is None


def test_no_room_gives_no_draft() -> None:
    assert index_of([1, 2, 3] * 4).draft(0) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_agreement_is_the_length_of_the_common_prefix(ours: list[int], theirs: list[int]) -> None:
    agreed = NgramDraft(ours, 2).agreement(theirs)
    assert ours[:agreed] == theirs[:agreed]
    assert agreed == min(len(ours), len(theirs)) or ours[agreed] != theirs[agreed]


def test_at_first_a_longer_match_is_trusted_more_and_later_tokens_more_than_the_first() -> None:
    short, long = (np.exp(NgramOdds().logprobs(NgramDraft([0] * 4, length))) for length in (2, 8))
    assert short[0] == pytest.approx(PRIORS[0])
    assert (long > short).all()
    shares = short[1:] / short[:-1]
    assert (shares >= PRIORS[0] - 1e-9).all()
    assert shares[-1] > shares[0]


def test_odds_follow_what_the_text_went_on_with() -> None:
    odds, draft = NgramOdds(), NgramDraft([5, 6, 7], 2)
    for _ in range(300):
        odds.observe(draft, [5, 9])
    first, second, third = np.exp(odds.logprobs(draft))
    assert 0.4 < first < 0.6  # matches of 2 and 3 are counted together: one was right, the next wrong
    assert second < first
    assert third / second == pytest.approx(PRIORS[1])  # never reached


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(2, 8), st.lists(TEXTS, max_size=20))
def test_logprobs_fall_and_stay_finite(tokens: list[int], matched: int, seen: list[list[int]]) -> None:
    odds, draft = NgramOdds(), NgramDraft(tokens, matched)
    for text in seen:
        odds.observe(draft, text)
    logprobs = odds.logprobs(draft)
    assert len(logprobs) == len(tokens)
    assert np.isfinite(logprobs).all()
    assert (np.diff([0.0, *logprobs]) <= 0).all()


def saturated(draft: NgramDraft) -> NgramOdds:
    odds = NgramOdds()
    for _ in range(9000):
        odds.observe(draft, draft.tokens)
    return odds


def test_tokens_that_were_always_right_are_certain_and_no_more_than_that() -> None:
    draft = NgramDraft([1] * 16, 2)
    logprobs = saturated(draft).logprobs(draft)
    assert logprobs[-1] == pytest.approx(0.0, abs=1e-9)
    assert max(logprobs) <= 0.0


# The drafter, which works without any draft model


def proposed(lookup: NgramLookup, text: list[int], room: int = 16) -> list[int]:
    """Tokens that the drafter adds to a tree below the end of ``text``."""
    sequence, builder = lookup.lease(text, TreeShape()), TreeBuilder(text[-1], TreeShape())
    prospect = sequence.prospect(room)
    assert prospect.backlog is None
    assert run_together([sequence.propose(builder, StepBudget(), Noise(0, 0.0, 9), room)]) == [()]
    tree = builder.finish()
    assert tree.is_chain
    assert tree.logprobs == [0.0, *prospect.copied]
    assert all(rank < 0 for rank in tree.ranks)
    return tree.tokens[1:].tolist()


@given(TEXTS.filter(len), st.integers(0, 20))
def test_the_drafter_merges_the_copied_tokens_below_the_root(text: list[int], room: int) -> None:
    expected = index_of(text).draft(room)
    assert proposed(NgramLookup(), text, room) == (expected.tokens if expected else [])


def test_a_text_is_followed_and_its_next_draft_continues_it() -> None:
    sequence = NgramLookup().lease([1, 2, 3, 1], TreeShape())
    assert sequence.prospect(5).copied == []
    assert sequence.follow([2])
    assert len(sequence.prospect(5).copied) == 5
    assert sequence.learn([3, 1, 9]) == 2
    assert sequence.follow([3, 1, 9])


def test_tokens_count_as_copied_only_in_the_step_that_proposed_them() -> None:
    sequence = NgramLookup().lease([1, 2, 1, 2], TreeShape())
    assert sequence.learn([1, 2]) == 0
    sequence.prospect(4)
    assert sequence.learn([1, 2]) == 2
    sequence.follow([1, 2])
    assert sequence.learn([1, 2]) == 0


def test_texts_learn_from_each_other_how_often_copies_are_accepted() -> None:
    lookup, text = NgramLookup(), [1, 2, 1, 2]
    before = lookup.lease(text, TreeShape()).prospect(4).copied
    for _ in range(100):
        sequence = lookup.lease(text, TreeShape())
        sequence.prospect(4)
        sequence.learn([9])
    after = lookup.lease(text, TreeShape()).prospect(4).copied
    assert after[0] < before[0] - 1
