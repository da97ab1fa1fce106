"""Caches: prefix views alias one block of memory, and moved rows are read before any is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.backends.cpu.kv import BUCKET, KVCache

LAYERS, SLOTS, WIDTH = 3, 2 * BUCKET, 4


def numbered_cache() -> KVCache:
    """A cache of distinct numbers."""
    cache = KVCache(LAYERS, SLOTS, WIDTH)
    for index, (layer, part) in enumerate((layer, part) for layer in range(LAYERS) for part in ("key", "value")):
        rows = np.arange(SLOTS * WIDTH, dtype=np.float32).reshape(1, SLOTS, WIDTH)
        cache.view(layer, part, SLOTS)[:] = rows + index * SLOTS * WIDTH
    return cache


def test_a_new_cache_is_zero() -> None:
    assert not KVCache(LAYERS, SLOTS, WIDTH).view(0, "key", SLOTS).any()


def test_slots_are_rounded_up_to_whole_buckets() -> None:
    assert KVCache(1, BUCKET + 1, WIDTH).slots == 2 * BUCKET


@given(length=st.integers(0, SLOTS))
def test_a_bucket_is_the_smallest_prefix_that_holds_the_length(length: int) -> None:
    bucket = KVCache(1, SLOTS, WIDTH).hold(length)
    assert bucket % BUCKET == 0
    assert bucket - BUCKET < length <= bucket


@pytest.mark.parametrize("part", ["key", "value"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_views_are_contiguous_and_alias_the_same_memory(layer: int, part: str) -> None:
    cache = KVCache(LAYERS, SLOTS, WIDTH)
    short, long = cache.view(layer, part, BUCKET), cache.view(layer, part, SLOTS)
    assert short.shape == (1, BUCKET, WIDTH)
    assert short.dtype == np.float32
    assert short.flags.c_contiguous
    assert long.flags.c_contiguous
    short[0, 5] = 7.0
    assert (long[0, 5] == 7.0).all()
    assert np.count_nonzero(cache._block) == WIDTH


@given(start=st.integers(0, SLOTS - 20), data=st.data())
def test_moving_rows_reads_all_before_writing_any(start: int, data: st.DataObject) -> None:
    sources = np.array(data.draw(st.lists(st.integers(0, SLOTS - 1), max_size=20)), np.int64)
    cache, before = numbered_cache(), numbered_cache()
    cache.move(sources, start)
    for layer in range(LAYERS):
        for part in ("key", "value"):
            expected = before.view(layer, part, SLOTS).copy()
            for offset, source in enumerate(sources):
                expected[0, start + offset] = before.view(layer, part, SLOTS)[0, source]
            assert np.array_equal(cache.view(layer, part, SLOTS), expected)


@given(stop=st.integers(0, SLOTS))
def test_a_reset_zeroes_what_was_held_and_nothing_else(stop: int) -> None:
    cache = numbered_cache()
    cache.hold(stop)
    cache.reset()
    assert not cache.view(0, "key", stop).any()
    assert np.array_equal(cache.view(0, "key", SLOTS)[:, stop:], numbered_cache().view(0, "key", SLOTS)[:, stop:])
