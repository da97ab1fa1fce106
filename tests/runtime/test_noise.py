"""Noise is a pure function of (seed, position, token id), and adding it samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.noise import Noise, gumbel, philox4x32

SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 100_000)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 0xFFFFFFFF_FFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0_A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: list[int], key: int, words: list[int]) -> None:
    assert philox4x32(np.array(counter, np.uint64)[:, None], key)[:, 0].tolist() == words


def test_a_token_takes_its_word_of_the_positions_stream() -> None:
    seed, position, token = 0x0123456789ABCDEF, 17, 4 * 5 + 2
    word = philox4x32(np.array([[5], [position], [0], [0]], np.uint64), seed)[2, 0]
    uniform = (float(word) + 0.5) / 2**32
    assert gumbel(seed, position, 1, 100)[0, token] == pytest.approx(-np.log(-np.log(uniform)))


@given(seed=SEEDS, position=POSITIONS, small=st.integers(1, 40), more=st.integers(1, 40))
def test_noise_of_a_token_does_not_depend_on_the_vocabularys_size(
    seed: int, position: int, small: int, more: int
) -> None:
    assert np.array_equal(gumbel(seed, position, 2, small), gumbel(seed, position, 2, small + more)[:, :small])


@given(seed=SEEDS, position=POSITIONS, count=st.integers(1, 12))
def test_noise_of_a_position_does_not_depend_on_how_many_are_made_at_once(seed: int, position: int, count: int) -> None:
    together = gumbel(seed, position, count, 9)
    apart = [gumbel(seed, position + index, 1, 9)[0] for index in range(count)]
    assert np.array_equal(together, np.stack(apart))


@given(seed=SEEDS, order=st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_rows_do_not_depend_on_the_order_of_asking(seed: int, order: list[int]) -> None:
    noise = Noise(seed, 0.7, 9)
    for position in order:
        assert np.array_equal(noise.row(position), np.float32(0.7) * gumbel(seed, position, 1, 9)[0])


@given(seed=SEEDS, position=POSITIONS)
def test_noise_is_finite_float32(seed: int, position: int) -> None:
    noise = gumbel(seed, position, 1, 64)
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()


def test_noise_is_finite_at_both_ends_of_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, 2**32 - 1):
        monkeypatch.setattr("runtime.noise.philox4x32", lambda counter, key, w=word: np.full_like(counter, w))
        assert np.isfinite(gumbel(0, 0, 1, 4)).all()


def test_other_seeds_and_positions_give_other_noise() -> None:
    rows = [gumbel(seed, position, 1, 8)[0] for seed in (0, 1, 2**32, 2**63) for position in (0, 1)]
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_greedy_noise_is_zero() -> None:
    row = Noise(5, 0.0, 9).row(3)
    assert row.dtype == np.float32
    assert np.array_equal(row, np.zeros(9))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_adding_noise_samples_from_the_softmax(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -0.5, -1.0, 1.5], np.float32)
    positions = 20_000
    scores = logits + np.float32(temperature) * gumbel(11, 0, positions, len(logits))
    counts = np.bincount(scores.argmax(axis=1), minlength=len(logits))
    weights = np.exp(logits.astype(np.float64) / temperature)
    expected = positions * weights / weights.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # The 99.9th percentile of chi-square with 5 degrees of freedom.
    assert chi_square < 20.5


def test_noise_of_neighbouring_positions_is_uncorrelated() -> None:
    noise = gumbel(3, 0, 2_000, 4)
    correlation = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(correlation) < 0.04
