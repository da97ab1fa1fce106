"""Noise is a pure function of (seed, position, token id), and adding it samples."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.noise import Gumbel, Noise

SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 100_000)


def gumbel(seed: int, position: int, vocab_size: int) -> np.ndarray:
    row: np.ndarray = Gumbel(seed).rows(range(position, position + 1), vocab_size)[0]
    return row


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, 0, [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]),
        (2**256 - 1, 2**128 - 1, [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: int, key: int, words: list[int]) -> None:
    # NumPy counts up before each block.
    assert np.random.Philox(key=key, counter=(counter - 1) % 2**256).random_raw(4).tolist() == words


def test_a_token_takes_its_word_of_the_positions_stream() -> None:
    seed, position, token = 0x0123456789ABCDEF, 17, 4 * 5 + 3
    pair = int(np.random.Philox(key=seed, counter=[0, position, 0, 0]).random_raw(12)[token // 2])
    uniform = ((pair >> 32) + 0.5) / 2**32
    assert gumbel(seed, position, 100)[token] == pytest.approx(-np.log(-np.log(uniform)))


def test_the_noise_of_a_seed_never_changes() -> None:
    assert gumbel(7, 3, 5).tolist() == pytest.approx(
        [0.6344537734985352, 0.19449441134929657, -0.1738000363111496, -0.5865780115127563, 3.3278021812438965]
    )


@given(seed=SEEDS, position=POSITIONS, small=st.integers(1, 40), more=st.integers(1, 40))
def test_noise_of_a_token_does_not_depend_on_the_vocabularys_size(
    seed: int, position: int, small: int, more: int
) -> None:
    assert np.array_equal(gumbel(seed, position, small), gumbel(seed, position, small + more)[:small])


@given(seed=SEEDS, order=st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_rows_do_not_depend_on_the_order_of_asking(seed: int, order: list[int]) -> None:
    noise = Noise(seed, 0.7, 9)
    for position in order:
        assert np.array_equal(noise.row(position), np.float32(0.7) * gumbel(seed, position, 9))


@given(seed=SEEDS, position=POSITIONS)
def test_noise_is_finite_float32(seed: int, position: int) -> None:
    noise = gumbel(seed, position, 64)
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()


def test_noise_is_finite_at_both_ends_of_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, 2**32 - 1):
        monkeypatch.setattr(
            "runtime.sampling.noise._words", lambda pairs, w=word: np.full((1, 2 * pairs.size), w, np.uint32)
        )
        assert np.isfinite(gumbel(0, 0, 4)).all()


def test_other_seeds_and_positions_give_other_noise() -> None:
    rows = [gumbel(seed, position, 8) for seed in (0, 1, 2**32, 2**63) for position in (0, 1)]
    assert len({row.tobytes() for row in rows}) == len(rows)


@pytest.mark.parametrize("vocab_size", [9, 5000, 40_000])
def test_a_row_is_the_same_however_many_are_made_together_or_were_forgotten(vocab_size: int) -> None:
    noise = Noise(4, 1.0, vocab_size)
    first = noise.row(3).copy()
    for position in range(0, 400, 7):
        assert np.array_equal(noise.row(position), gumbel(4, position, vocab_size))
    assert np.array_equal(noise.row(3), first)


def test_the_noise_of_a_long_text_is_not_kept_as_a_whole() -> None:
    noise = Noise(4, 1.0, 10_000)
    rows = [weakref.ref(noise.row(position).base) for position in range(200)]
    assert sum(row() is not None for row in rows) <= 32
    assert rows[-1]() is not None


def test_noise_is_freed_with_its_text_without_the_garbage_collector() -> None:
    noise = Noise(4, 1.0, 100)
    block, alive = weakref.ref(noise.row(0).base), weakref.ref(noise)
    gc.disable()
    try:
        del noise
        assert alive() is None
        assert block() is None
    finally:
        gc.enable()


def test_greedy_noise_is_zero() -> None:
    row = Noise(5, 0.0, 9).row(3)
    assert row.dtype == np.float32
    assert np.array_equal(row, np.zeros(9))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_adding_noise_samples_from_the_softmax(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -0.5, -1.0, 1.5], np.float32)
    positions = 20_000
    scores = logits + np.float32(temperature) * Gumbel(11).rows(range(positions), len(logits))
    counts = np.bincount(scores.argmax(axis=1), minlength=len(logits))
    weights = np.exp(logits.astype(np.float64) / temperature)
    expected = positions * weights / weights.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # The 99.9th percentile of chi-square with 5 degrees of freedom.
    assert chi_square < 20.5


def test_noise_of_neighbouring_positions_is_uncorrelated() -> None:
    noise = Gumbel(3).rows(range(2_000), 4)
    correlation = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(correlation) < 0.04
