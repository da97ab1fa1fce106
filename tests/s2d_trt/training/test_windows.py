"""Windows of a stream: which tokens they hold, in which order, and which of them count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_trt.errors import OptionError
from s2d_trt.training.windows import IGNORED, Stream, Windows, held_out_windows

lengths = st.integers(1, 12)
seeds = st.integers(0, 2**32)


def stream(length: int, extra: int) -> Stream:
    """Every token is its own position, so that a window tells where it was cut."""
    return positions(2 * length + 1 + extra)


def positions(count: int) -> Stream:
    return Stream.whole(np.arange(count, dtype=np.int32))


@given(lengths, st.integers(0, 100), seeds, st.integers(0, 200), st.integers(1, 5), st.integers(0, 200))
def test_a_window_depends_on_seed_and_number_alone(
    length: int, extra: int, seed: int, first: int, count: int, before: int
) -> None:
    tokens = stream(length, extra)
    used = Windows(tokens, length, seed)
    used.batch(before, 3)
    batch = used.batch(first, count)
    assert batch.inputs.shape == batch.labels.shape == (count, length)
    assert batch.inputs.dtype == batch.labels.dtype == np.int64
    for index in range(count):
        alone = Windows(tokens, length, seed).batch(first + index, 1)
        assert (alone.inputs[0] == batch.inputs[index]).all()
        assert (alone.labels[0] == batch.labels[index]).all()


@given(lengths, st.integers(0, 100), seeds, st.integers(0, 5))
def test_every_epoch_reads_one_stretch_of_the_stream_once(length: int, extra: int, seed: int, epoch: int) -> None:
    tokens = stream(length, extra)
    windows = Windows(tokens, length, seed)
    batch = windows.batch(epoch * windows.per_epoch, windows.per_epoch)
    predicted = np.sort(batch.labels.ravel())
    assert (np.diff(predicted) == 1).all()
    # What is left out is shorter than two windows: the random offset, and what no window fills.
    assert len(tokens) - len(predicted) <= 2 * length


def test_epochs_differ_in_order_and_cut() -> None:
    windows = Windows(stream(8, 400), 8, seed=0)
    first, second = windows.batch(0, windows.per_epoch), windows.batch(windows.per_epoch, windows.per_epoch)
    assert not np.array_equal(first.inputs, second.inputs)
    assert not np.array_equal(np.sort(first.inputs[:, 0]), np.sort(second.inputs[:, 0]))


def test_the_digest_tells_streams_lengths_and_seeds_apart() -> None:
    tokens = stream(4, 50)
    digests = {
        Windows(tokens, 4, 0).digest(),
        Windows(tokens, 4, 1).digest(),
        Windows(tokens, 5, 0).digest(),
        Windows(tokens.split(1)[0], 4, 0).digest(),
        Windows(Stream.whole(tokens.ids[::-1].copy()), 4, 0).digest(),
        Windows(Stream(tokens.ids, tokens.ids > 3), 4, 0).digest(),
    }
    assert len(digests) == 6
    assert Windows(Stream.whole(tokens.ids.copy()), 4, 0).digest() in digests


def test_a_stream_shorter_than_two_windows_is_refused() -> None:
    Windows(positions(9), 4, 0)
    with pytest.raises(OptionError, match="has 8 tokens, too few for windows of 4"):
        Windows(positions(8), 4, 0)


@given(lengths, st.integers(1, 300), st.integers(1, 20))
def test_held_out_windows_are_disjoint_and_at_most_the_limit(length: int, extra: int, limit: int) -> None:
    windows = held_out_windows(positions(length + extra), length, limit)
    assert 1 <= len(windows.inputs) <= limit
    starts = windows.inputs[:, 0]
    assert (np.diff(starts) >= length).all()
    assert (windows.inputs == starts[:, None] + np.arange(length)).all()
    assert (windows.labels == windows.inputs + 1).all()


def test_held_out_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(OptionError, match="held out has 8 tokens, too few for a window of 8"):
        held_out_windows(positions(8), 8, 4)


@given(st.lists(st.booleans(), min_size=9, max_size=60), seeds)
def test_a_label_is_the_next_token_where_that_counts(counted: list[bool], seed: int) -> None:
    mask = np.array([*counted, True])
    tokens = Stream(np.arange(len(mask), dtype=np.int32), mask)
    inputs, labels = Windows(tokens, 4, seed).batch(0, 5)
    assert (labels == np.where(mask[inputs + 1], inputs + 1, IGNORED)).all()


def test_a_stream_in_which_nothing_counts_is_refused() -> None:
    silent = Stream(np.arange(20, dtype=np.int32), np.zeros(20, bool))
    with pytest.raises(OptionError, match="no token of the data counts"):
        Windows(silent, 4, 0)
    with pytest.raises(OptionError, match="has no answer in it"):
        held_out_windows(silent, 4, 4)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_split_loses_nothing(count: int, tail: int) -> None:
    head, rest = positions(count).split(tail)
    assert len(rest) == min(count, tail)
    assert (Stream.join([head, rest]).ids == positions(count).ids).all()


def test_joining_nothing_gives_an_empty_stream() -> None:
    assert len(Stream.join([])) == 0


def test_stretched_windows_are_longer_ones_of_the_same_stream() -> None:
    windows = Windows(positions(200), 4, 1)
    assert windows.stretched(1) is windows
    assert (windows.stretched(3).batch(0, 5).inputs == Windows(positions(200), 12, 1).batch(0, 5).inputs).all()
