"""Rows that are kept for later texts: found by all tokens up to them, bounded in bytes, least recently used dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.targets.prefixes import BLOCK, PrefixCache

LAYERS, WIDTH = 2, 3
BLOCK_BYTES = 2 * LAYERS * BLOCK * WIDTH * 4


class Rows:
    """The rows of a text, made from its tokens: a row depends on all tokens up to its own."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.copied = list(tokens), 0

    def __call__(self, start: int, stop: int) -> np.ndarray:
        self.copied += stop - start
        sums = np.cumsum(np.array(self.tokens, np.float32) + 1)[start:stop]
        return np.broadcast_to(sums[None, None, :, None], (2 * LAYERS, 1, stop - start, WIDTH)).copy()


def text(*blocks: int, more: int = 0) -> list[int]:
    """Whole blocks of one token each, and ``more`` tokens."""
    return [token for block in blocks for token in [block] * BLOCK] + [99] * more


def stored(cache: PrefixCache, tokens: Sequence[int]) -> int:
    """Keep a text; how many of its rows were copied."""
    rows = Rows(tokens)
    cache.store(tokens, rows)
    return rows.copied


def length(cache: PrefixCache, tokens: Sequence[int]) -> int:
    """How many rows of ``tokens`` are kept."""
    return sum(block.shape[2] for block in cache.longest(tokens))


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(100 * BLOCK_BYTES)


def test_a_text_finds_the_rows_of_an_earlier_one_that_begins_alike(cache: PrefixCache) -> None:
    stored(cache, text(1, 2, 3, more=5))
    found = cache.longest(text(1, 2, 7))
    assert np.array_equal(np.concatenate(found, axis=2), Rows(text(1, 2))(0, 2 * BLOCK))


def test_a_block_behind_another_beginning_is_another_block(cache: PrefixCache) -> None:
    stored(cache, text(1, 2, 3))
    assert length(cache, text(4, 2, 3, more=1)) == 0
    assert length(cache, text(2, 3, more=1)) == 0
    assert length(cache, text(1, 3, more=1)) == BLOCK


@pytest.mark.parametrize(("tokens", "rows"), [(0, 0), (1, 0), (BLOCK, 0), (BLOCK + 1, BLOCK), (2 * BLOCK, BLOCK)])
def test_at_least_one_token_is_left_whose_logits_are_computed(cache: PrefixCache, tokens: int, rows: int) -> None:
    stored(cache, text(1, 1, 1))
    assert length(cache, text(1, 1, 1)[:tokens]) == rows


def test_only_whole_blocks_are_kept_and_each_once(cache: PrefixCache) -> None:
    assert stored(cache, text(1, 2, more=BLOCK - 1)) == 2 * BLOCK
    assert stored(cache, text(1, 2, more=9)) == 0
    assert stored(cache, text(1, 2, 3)) == BLOCK
    assert cache.bytes == 3 * BLOCK_BYTES


def test_the_text_that_was_used_least_recently_is_dropped_first() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    stored(cache, text(1))
    stored(cache, text(2))
    length(cache, text(1, more=1))
    stored(cache, text(3))
    assert [length(cache, text(token, more=1)) for token in (1, 2, 3)] == [BLOCK, 0, BLOCK]


def test_storing_a_text_again_is_a_use() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    for token in (1, 2, 1, 3):
        stored(cache, text(token))
    assert [length(cache, text(token, more=1)) for token in (1, 2, 3)] == [BLOCK, 0, BLOCK]


def test_of_a_text_that_does_not_fit_the_beginning_is_kept() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    stored(cache, text(1, 2, 3, 4))
    assert length(cache, text(1, 2, 3, 4, more=1)) == 2 * BLOCK
    stored(cache, text(5))
    assert length(cache, text(1, 2, more=1)) == BLOCK


@pytest.mark.parametrize("limit", [0, BLOCK_BYTES - 1])
def test_where_not_one_block_fits_nothing_is_kept(limit: int) -> None:
    cache = PrefixCache(limit)
    stored(cache, text(1, 2))
    assert (cache.bytes, length(cache, text(1, more=1))) == (0, 0)


TEXTS = st.lists(st.integers(0, 2), max_size=4)


@given(
    uses=st.lists(st.tuples(st.booleans(), TEXTS, st.integers(0, 3)), max_size=30),
    limit=st.integers(1, 6),
)
def test_the_bytes_are_bounded_every_row_is_right_and_no_block_outlives_its_beginning(
    uses: list[tuple[bool, list[int], int]], limit: int
) -> None:
    cache, kept = PrefixCache(limit * BLOCK_BYTES), set[tuple[int, ...]]()
    for stores, blocks, more in uses:
        tokens = text(*blocks, more=more)
        if stores:
            stored(cache, tokens)
            kept |= {tuple(blocks[:count]) for count in range(1, len(blocks) + 1)}
        else:
            found = cache.longest(tokens)
            assert tuple(blocks[: len(found)]) in {*kept, ()}
            if found:
                rows = np.concatenate(found, axis=2)
                assert np.array_equal(rows, Rows(tokens)(0, rows.shape[2]))
        assert cache.bytes <= limit * BLOCK_BYTES
    # Every kept block can be found, so none is kept whose beginning was dropped.
    reachable = {blocks[:count] for blocks in kept for count in range(1, 1 + len(cache.longest(text(*blocks, more=1))))}
    assert len(reachable) * BLOCK_BYTES == cache.bytes
