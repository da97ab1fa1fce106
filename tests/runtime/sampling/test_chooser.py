"""Choosing the next token: penalties, filters and noise against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.chooser import Chooser, LogprobsMode
from runtime.sampling.filters import kept_tokens
from runtime.sampling.noise import Gumbel, Noise
from runtime.sampling.options import Sampling
from runtime.sampling.rules import BadWords, LogitBias, MinTokens, RepetitionPenalty

VOCAB = 12
# Quarters make ties likely and are exact in binary.
LOGITS = st.lists(st.integers(-40, 40), min_size=VOCAB, max_size=VOCAB).map(
    lambda quarters: np.array(quarters, np.float32) / 4
)
TEMPERATURES = st.sampled_from([0.3, 1.0, 2.5])
TOKENS = st.sets(st.integers(0, VOCAB - 1))


def chooser(sampling: Sampling, text: set[int] | tuple[int, ...] = ()) -> Chooser:
    rules = [RepetitionPenalty(sampling.repetition_penalty, [*text], VOCAB)]
    return Chooser(sampling, Noise(sampling.seed or 0, sampling.temperature, VOCAB), rules)


@given(logits=LOGITS, text=TOKENS)
def test_greedy_takes_the_best_processed_logit(logits: np.ndarray, text: set[int]) -> None:
    sampling = Sampling(repetition_penalty=1.5)
    expected = [
        (value / 1.5 if value > 0 else value * 1.5) if token in text else value
        for token, value in enumerate(logits.tolist())
    ]
    scores = chooser(sampling, text).scores(logits, 3)
    assert scores == pytest.approx(np.array(expected))
    assert chooser(sampling, text).choose(logits, 3) == int(scores.argmax())


def test_greedy_ignores_filters_and_seed() -> None:
    logits = np.array([0.5, 2.0, 1.0] + [0.0] * (VOCAB - 3), np.float32)
    for sampling in (Sampling(), Sampling(top_k=1, seed=4), Sampling(top_p=0.1, min_p=0.9)):
        assert chooser(sampling).choose(logits, 0) == 1


@given(logits=LOGITS, temperature=TEMPERATURES, seed=st.integers(0, 2**64 - 1), position=st.integers(0, 999))
def test_sampling_takes_the_best_logit_plus_scaled_noise(
    logits: np.ndarray, temperature: float, seed: int, position: int
) -> None:
    (noise,) = Gumbel(seed).rows(range(position, position + 1), VOCAB)
    expected = int((logits + np.float32(temperature) * noise).argmax())
    assert chooser(Sampling(temperature, seed=seed)).choose(logits, position) == expected


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(0, VOCAB), top_p=st.floats(0.01, 1.0), text=TOKENS)
def test_only_tokens_that_pass_the_filters_have_a_score(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, text: set[int]
) -> None:
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty=1.3, seed=2)
    scores = chooser(sampling, text).scores(logits, 5)
    # The filters see penalised logits.
    penalised = chooser(Sampling(repetition_penalty=1.3), text).scores(logits, 5)
    kept = kept_tokens(penalised, sampling)
    (noise,) = Gumbel(2).rows(range(5, 6), VOCAB)
    assert scores.dtype == np.float32
    assert np.array_equal(scores[kept], (penalised + np.float32(temperature) * noise)[kept])
    assert (scores[~kept] == -np.inf).all()


@given(logits=LOGITS, text=TOKENS, penalty=st.floats(0.5, 2.0))
def test_a_repetition_penalty_changes_only_tokens_of_the_text(
    logits: np.ndarray, text: set[int], penalty: float
) -> None:
    scores = chooser(Sampling(repetition_penalty=penalty), text).scores(logits, 0)
    others = sorted(set(range(VOCAB)) - text)
    assert np.array_equal(scores[others], logits[others])
    for token in text:
        value = float(logits[token])
        assert scores[token] == pytest.approx(value / penalty if value > 0 else value * penalty)


def test_a_chosen_token_joins_the_text() -> None:
    logits = np.array([4.0, 3.0] + [0.0] * (VOCAB - 2), np.float32)
    choosing = chooser(Sampling(repetition_penalty=2.0))
    assert [choosing.choose(logits, position) for position in range(3)] == [0, 1, 0]


@given(logits=LOGITS, temperature=st.sampled_from([0.0, 1.0]))
def test_the_scores_of_the_chosen_tokens_are_listed(logits: np.ndarray, temperature: float) -> None:
    choosing = chooser(Sampling(temperature, seed=1))
    expected = []
    for position in range(3):
        scores = choosing.scores(logits, position)
        expected.append(float(scores[choosing.choose(logits, position)]))
        assert expected[-1] == scores.max()
    assert choosing.chosen_scores == expected


def test_a_vocabulary_smaller_than_the_noise_takes_its_first_words() -> None:
    logits = np.zeros(5, np.float32)
    scores = Chooser(Sampling(1.0, seed=3), Noise(3, 1.0, VOCAB)).scores(logits, 4)
    assert np.array_equal(scores, Gumbel(3).rows(range(4, 5), 5)[0])


def test_choosing_leaves_the_logits_as_they_were() -> None:
    logits = np.linspace(-1, 1, VOCAB, dtype=np.float32)
    before = logits.copy()
    chooser(Sampling(1.0, 3, 0.9, 0.1, 1.2, seed=1), (2, 5)).choose(logits, 0)
    assert np.array_equal(logits, before)


@given(
    logits=st.lists(LOGITS, min_size=4, max_size=4),
    words=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=2), min_size=1, max_size=4),
    sampling=st.builds(Sampling, TEMPERATURES | st.just(0.0), st.sampled_from([0, 3]), seed=st.integers(0, 9)),
    least=st.integers(0, 3),
    bans_first=st.booleans(),
    mode=st.sampled_from(["raw", "processed"]),
)
def test_bans_leave_the_best_of_the_tokens_that_they_allow(
    logits: list[np.ndarray],
    words: list[list[int]],
    sampling: Sampling,
    least: int,
    bans_first: bool,
    mode: LogprobsMode,
) -> None:
    bans, bias = [BadWords(words, [1, 2]), MinTokens(least, (0, 7))], LogitBias({3: 2.5})
    rules = [*bans, bias] if bans_first else [bias, *bans]
    choosing = Chooser(sampling, Noise(sampling.seed or 0, sampling.temperature, VOCAB), rules, 2, mode)
    for position, row in enumerate(logits):
        scores = choosing.scores(row, position)
        allowed = [all(ban.allows(token) for ban in bans) for token in range(VOCAB)]
        assert all(allowed[token] or scores[token] == -np.inf for token in range(VOCAB))
        assert choosing.choose(row, position) == int(scores.argmax())
        assert choosing.chosen_scores[-1] == scores.max()
