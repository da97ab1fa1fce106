"""Choosing the next token: filters and penalties against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.chooser import Chooser
from runtime.sampling.noise import Gumbel, Noise
from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError

VOCAB = 12
# Quarters make ties likely and are exact in binary.
LOGITS = st.lists(st.integers(-40, 40), min_size=VOCAB, max_size=VOCAB).map(
    lambda quarters: np.array(quarters, np.float32) / 4
)
TEMPERATURES = st.sampled_from([0.3, 1.0, 2.5])


def chooser(sampling: Sampling, seen: tuple[int, ...] = ()) -> Chooser:
    made = Chooser(sampling, Noise(sampling.seed or 0, sampling.temperature, VOCAB), VOCAB)
    made.see(seen)
    return made


def kept(logits: np.ndarray, sampling: Sampling) -> set[int]:
    return set(np.flatnonzero(np.isfinite(chooser(sampling).scores(logits, 0))).tolist())


def ranked(logits: np.ndarray) -> list[int]:
    """Token ids, best first, of equal ones the smaller first."""
    return sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))


def probabilities(logits: np.ndarray, temperature: float, among: list[int]) -> dict[int, float]:
    weights = {token: math.exp((float(logits[token]) - float(logits.max())) / temperature) for token in among}
    return {token: weight / math.fsum(weights.values()) for token, weight in weights.items()}


@given(logits=LOGITS, seen=st.sets(st.integers(0, VOCAB - 1)))
def test_greedy_takes_the_best_processed_logit(logits: np.ndarray, seen: set[int]) -> None:
    sampling = Sampling(repetition_penalty=1.5)
    expected = [
        (value / 1.5 if value > 0 else value * 1.5) if token in seen else value
        for token, value in enumerate(logits.tolist())
    ]
    scores = chooser(sampling, tuple(seen)).scores(logits, 3)
    assert scores == pytest.approx(np.array(expected))
    assert chooser(sampling, tuple(seen)).choose(logits, 3) == int(scores.argmax())


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


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(1, VOCAB + 2))
def test_top_k_keeps_the_k_best(logits: np.ndarray, temperature: float, top_k: int) -> None:
    assert kept(logits, Sampling(temperature, top_k=top_k)) == set(ranked(logits)[:top_k])


@given(logits=LOGITS, temperature=TEMPERATURES, top_p=st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_best_tokens_that_holds_the_mass(
    logits: np.ndarray, temperature: float, top_p: float
) -> None:
    order = ranked(logits)
    share = probabilities(logits, temperature, order)
    mass, expected = 0.0, set()
    for token in order:
        if mass >= top_p - 1e-9:
            break
        expected.add(token)
        mass += share[token]
    # A set that misses the mass by less than rounding may hold one token more.
    result = kept(logits, Sampling(temperature, top_p=top_p))
    assert expected <= result or abs(mass - top_p) < 1e-9
    assert len(result) <= len(expected) + (abs(mass - top_p) < 1e-9)


@given(logits=LOGITS, temperature=TEMPERATURES, min_p=st.floats(0.01, 0.99))
def test_min_p_keeps_tokens_not_much_less_probable_than_the_best(
    logits: np.ndarray, temperature: float, min_p: float
) -> None:
    share = probabilities(logits, temperature, ranked(logits))
    floor = min_p * max(share.values())
    result = kept(logits, Sampling(temperature, min_p=min_p))
    for token, probability in share.items():
        if abs(probability - floor) > 1e-12:
            assert (token in result) == (probability > floor)


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(1, VOCAB), min_p=st.floats(0.01, 0.99))
def test_filters_act_in_turn_each_on_what_the_one_before_left(
    logits: np.ndarray, temperature: float, top_k: int, min_p: float
) -> None:
    both = kept(logits, Sampling(temperature, top_k=top_k, min_p=min_p))
    assert both == kept(logits, Sampling(temperature, top_k=top_k)) & kept(logits, Sampling(temperature, min_p=min_p))
    # The mass of top-p is counted among the tokens that top-k left.
    logits = np.array([3.0, 2.9, 2.8] + [2.7] * (VOCAB - 3), np.float32)
    assert kept(logits, Sampling(1.0, top_k=2, top_p=0.5)) == {0}
    assert len(kept(logits, Sampling(1.0, top_p=0.5))) > 2


@given(
    logits=LOGITS,
    temperature=TEMPERATURES,
    top_k=st.integers(0, 3),
    top_p=st.floats(1e-6, 1.0),
    min_p=st.floats(0.0, 0.999),
)
def test_the_best_token_always_survives(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    assert ranked(logits)[0] in kept(logits, Sampling(temperature, top_k, top_p, min_p))


@given(logits=LOGITS, seen=st.sets(st.integers(0, VOCAB - 1), min_size=1), penalty=st.floats(0.5, 2.0))
def test_a_repetition_penalty_changes_only_tokens_of_the_text(
    logits: np.ndarray, seen: set[int], penalty: float
) -> None:
    scores = chooser(Sampling(repetition_penalty=penalty), tuple(seen)).scores(logits, 0)
    unseen = sorted(set(range(VOCAB)) - seen)
    assert np.array_equal(scores[unseen], logits[unseen])
    for token in seen:
        value = float(logits[token])
        assert scores[token] == pytest.approx(value / penalty if value > 0 else value * penalty)


def test_filters_act_on_penalised_logits() -> None:
    logits = np.array([4.0, 3.0] + [-9.0] * (VOCAB - 2), np.float32)
    scores = chooser(Sampling(1.0, top_k=1, repetition_penalty=2.0), (0,)).scores(logits, 0)
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [1]


def test_choosing_leaves_the_logits_as_they_were() -> None:
    logits = np.linspace(-1, 1, VOCAB, dtype=np.float32)
    before = logits.copy()
    chooser(Sampling(1.0, 3, 0.9, 0.1, 1.2, seed=1), (2, 5)).choose(logits, 0)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("temperature", value) for value in (-0.1, 100.1, math.inf, math.nan)],
        ("top_k", -1),
        *[("top_p", value) for value in (0.0, -0.5, 1.1, math.nan)],
        *[("min_p", value) for value in (-0.1, 1.0, math.nan)],
        *[("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan)],
        *[("seed", value) for value in (-1, 2**64)],
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=option.replace("_", "[- ]")):
        Sampling(**{option: value})
