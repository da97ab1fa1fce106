"""Top-k, top-p and min-p against a reference that sorts the whole vocabulary."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.filters import kept_tokens
from runtime.sampling.options import Sampling

TEMPERATURES = (0.3, 1.0, 2.5)
TOP_K, TOP_P, MIN_P = (0, 1, 3, 50, 10_000), (1.0, 0.99, 0.9, 0.5, 1e-6), (0.0, 0.02, 0.5, 0.999)
OPTIONS = st.builds(
    Sampling,
    st.sampled_from(TEMPERATURES),
    st.integers(0, 400),
    st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    st.one_of(st.just(0.0), st.floats(0.001, 0.99)),
)


@st.composite
def logits(draw: st.DrawFn) -> np.ndarray:
    """Up to 700 logits, of few different values (so that many tie), flat or peaked, some of them banned."""
    size, values = draw(st.integers(1, 700)), draw(st.sampled_from([1, 2, 5, 100, 10_000]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    drawn = (rng.integers(0, values, size) / values * draw(st.sampled_from([0.5, 4.0, 30.0]))).astype(np.float32)
    banned = rng.random(size) < draw(st.sampled_from([0.0, 0.3]))
    banned[rng.integers(size)] = False
    return np.where(banned, np.float32(-np.inf), drawn)


def reference(processed: np.ndarray, sampling: Sampling, slack: float = 0.0) -> set[int]:
    """The specification. Masses and probabilities that miss a limit by less than ``slack`` pass."""
    order = sorted(range(len(processed)), key=lambda token: (-float(processed[token]), token))
    if sampling.top_k:
        order = order[: sampling.top_k]
    best = float(processed[order[0]])
    weights = [math.exp((float(processed[token]) - best) / sampling.temperature) for token in order]
    total, before, kept = math.fsum(weights), 0.0, set()
    for token, weight in zip(order, weights, strict=True):
        in_nucleus = sampling.top_p == 1.0 or before / total < sampling.top_p + slack
        if weight > 0 and in_nucleus and (sampling.min_p == 0 or weight >= sampling.min_p - slack):
            kept.add(token)
        before += weight
    return kept


def assert_kept_as_in_reference(processed: np.ndarray, sampling: Sampling) -> None:
    kept = set(np.flatnonzero(kept_tokens(processed, sampling)).tolist())
    # Sums in another order round otherwise, which may move a token across a limit that it just meets.
    assert reference(processed, sampling, -1e-9) <= kept <= reference(processed, sampling, 1e-9)


@given(logits(), OPTIONS)
def test_the_kept_tokens_are_those_of_a_sorted_vocabulary(processed: np.ndarray, sampling: Sampling) -> None:
    assert_kept_as_in_reference(processed, sampling)


@pytest.mark.parametrize("seed", range(3))
def test_all_combinations_of_filters_act_in_turn_each_on_what_the_one_before_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    processed = (rng.integers(-40, 40, 500) / 8).astype(np.float32)
    for temperature, top_k, top_p, min_p in product(TEMPERATURES, TOP_K, TOP_P, MIN_P):
        assert_kept_as_in_reference(processed, Sampling(temperature, top_k, top_p, min_p))


@given(logits(), OPTIONS)
def test_the_best_token_always_passes(processed: np.ndarray, sampling: Sampling) -> None:
    assert kept_tokens(processed, sampling)[processed.argmax()]


@given(logits(), st.integers(1, 800))
def test_of_equal_logits_top_k_keeps_the_smaller_ids(processed: np.ndarray, top_k: int) -> None:
    possible = np.flatnonzero(processed > -np.inf)
    order = sorted(possible.tolist(), key=lambda token: (-float(processed[token]), token))
    kept = np.flatnonzero(kept_tokens(processed, Sampling(100.0, top_k=top_k))).tolist()
    assert kept == sorted(order[:top_k])


def test_a_flat_vocabulary_is_searched_to_its_end() -> None:
    kept = kept_tokens(np.zeros(5000, np.float32), Sampling(1.0, top_p=0.9))
    assert kept.sum() == pytest.approx(4500, abs=1)
    assert kept[: kept.sum()].all()


def test_the_mass_of_top_p_is_counted_among_the_tokens_that_top_k_left() -> None:
    processed = np.array([3.0, 2.9, 2.8] + [2.7] * 9, np.float32)
    assert np.flatnonzero(kept_tokens(processed, Sampling(1.0, top_k=2, top_p=0.5))).tolist() == [0]
    assert kept_tokens(processed, Sampling(1.0, top_p=0.5)).sum() > 2


def test_the_logits_stay_as_they_were() -> None:
    processed = np.linspace(-1, 1, 300, dtype=np.float32)
    before = processed.copy()
    kept_tokens(processed, Sampling(0.7, 200, 0.9, 0.1))
    assert np.array_equal(processed, before)
