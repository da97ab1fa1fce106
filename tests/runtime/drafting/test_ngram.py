"""Continuations copied from the text itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.ngram import LENGTHS, LONGEST, PRIORS, NgramDraft, NgramIndex, NgramOdds

TEXTS = st.lists(st.integers(0, 3), max_size=60)
MOST = st.integers(1, 30)


def lookup_of(text: list[int]) -> NgramIndex:
    lookup = NgramIndex()
    lookup.extend(text)
    return lookup


def expected_guess(text: list[int], most: int) -> NgramDraft | None:
    """The specification: search for each passage from the text's end, longest passage first."""
    for length in reversed(LENGTHS):
        for stop in range(len(text) - 1, length - 1, -1):
            if len(text) >= length and text[stop - length : stop] == text[-length:]:
                continued = list(text)
                while len(continued) < stop + min(most, LONGEST):
                    continued.append(continued[len(continued) - (len(text) - stop)])
                return NgramDraft(continued[stop : stop + min(most, LONGEST)], length)
    return None


@given(TEXTS, MOST)
def test_a_guess_is_what_followed_the_latest_of_the_longest_passages(text: list[int], most: int) -> None:
    assert lookup_of(text).guess(most) == expected_guess(text, most)


@given(TEXTS, st.integers(0, 60), MOST)
def test_a_text_may_come_in_parts(text: list[int], cut: int, most: int) -> None:
    lookup = lookup_of(text[:cut])
    lookup.guess(most)
    lookup.extend(text[cut:])
    assert lookup.guess(most) == lookup_of(text).guess(most)


def test_a_text_that_repeats_itself_goes_on_repeating() -> None:
    assert lookup_of([1, 2, 3] * 4).guess(7) == NgramDraft([1, 2, 3, 1, 2, 3, 1], 8)


@pytest.mark.parametrize("text", [[], [1], [1, 1], [1, 2, 3, 4]])
def test_a_text_without_a_repeated_passage_gives_no_guess(text: list[int]) -> None:
    assert lookup_of(text).guess(5) is None


def test_no_room_gives_no_guess() -> None:
    assert lookup_of([1, 2, 3] * 4).guess(0) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_agreement_is_the_length_of_the_common_beginning(ours: list[int], theirs: list[int]) -> None:
    agreed = NgramDraft(ours, 2).agreement(theirs)
    assert ours[:agreed] == theirs[:agreed]
    assert agreed == min(len(ours), len(theirs)) or ours[agreed] != theirs[agreed]


def test_at_first_a_longer_passage_is_trusted_more_and_later_tokens_more_than_the_first() -> None:
    short, long = (np.exp(NgramOdds().logprobs(NgramDraft([0] * 4, length))) for length in (2, 8))
    assert short[0] == pytest.approx(PRIORS[0])
    assert (long > short).all()
    shares = short[1:] / short[:-1]
    assert (shares >= PRIORS[0] - 1e-9).all()
    assert shares[-1] > shares[0]


def test_odds_follow_what_the_text_went_on_with() -> None:
    odds, guess = NgramOdds(), NgramDraft([5, 6, 7], 2)
    for _ in range(300):
        odds.observe(guess, [5, 9])
    first, second, third = np.exp(odds.logprobs(guess))
    assert 0.4 < first < 0.6  # lengths 2 and 3 share a place: one was right, the next wrong
    assert second < first
    assert third / second == pytest.approx(PRIORS[1])  # never judged


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(2, 8), st.lists(TEXTS, max_size=20))
def test_logprobs_fall_and_stay_finite(tokens: list[int], matched: int, seen: list[list[int]]) -> None:
    odds, guess = NgramOdds(), NgramDraft(tokens, matched)
    for text in seen:
        odds.observe(guess, text)
    logprobs = odds.logprobs(guess)
    assert len(logprobs) == len(tokens)
    assert np.isfinite(logprobs).all()
    assert (np.diff([0.0, *logprobs]) <= 0).all()
