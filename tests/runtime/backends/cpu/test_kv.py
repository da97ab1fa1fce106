"""Caches: prefix views alias one block of memory, and moved rows are read before any is written."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.backends.cpu.kv import BUCKET, KVCache

LAYERS, SLOTS, WIDTH = 3, 2 * BUCKET, 4
PARTS = 2 * LAYERS
"""Keys and values of each layer in turn."""


def numbered_cache() -> KVCache:
    """A cache of distinct numbers."""
    cache = KVCache(LAYERS, SLOTS, WIDTH)
    cache.restore(0, np.arange(PARTS * SLOTS * WIDTH, dtype=np.float32).reshape(PARTS, 1, SLOTS, WIDTH))
    return cache


def test_a_new_cache_is_zero() -> None:
    assert not KVCache(LAYERS, SLOTS, WIDTH).rows(0, SLOTS).any()


def test_slots_are_rounded_up_to_whole_buckets() -> None:
    assert KVCache(1, BUCKET + 1, WIDTH).slots == 2 * BUCKET


@given(length=st.integers(0, SLOTS))
def test_a_bucket_is_the_smallest_prefix_that_holds_the_length(length: int) -> None:
    bucket = KVCache(1, SLOTS, WIDTH).hold(length)
    assert bucket % BUCKET == 0
    assert bucket - BUCKET < length <= bucket


@pytest.mark.parametrize("part", range(PARTS))
def test_views_are_contiguous_and_alias_the_same_memory(part: int) -> None:
    cache = numbered_cache()
    short, long = (cache.views(bucket)[part] for bucket in (BUCKET, SLOTS))
    assert (short.shape(), long.shape()) == ([1, BUCKET, WIDTH], [1, SLOTS, WIDTH])
    assert short.data_ptr() == long.data_ptr() == cache.views(SLOTS)[0].data_ptr() + part * SLOTS * WIDTH * 4
    assert short.data_type() == long.data_type() == "tensor(float)"
    assert np.array_equal(short.numpy(), cache.rows(0, BUCKET)[part])


def test_views_are_made_once() -> None:
    cache = numbered_cache()
    assert cache.views(BUCKET) is cache.views(BUCKET)


@given(start=st.integers(0, SLOTS - 20), data=st.data())
def test_moving_rows_reads_all_before_writing_any(start: int, data: st.DataObject) -> None:
    sources = np.array(data.draw(st.lists(st.integers(0, SLOTS - 1), max_size=20)), np.int64)
    cache, expected = numbered_cache(), numbered_cache().rows(0, SLOTS)
    cache.move(sources, start)
    before = expected.copy()
    for offset, source in enumerate(sources):
        expected[:, :, start + offset] = before[:, :, source]
    assert np.array_equal(cache.rows(0, SLOTS), expected)


@given(stop=st.integers(1, SLOTS))
def test_a_reset_zeroes_what_was_held(stop: int) -> None:
    cache = KVCache(LAYERS, SLOTS, WIDTH)
    cache.fill(np.random.default_rng(stop), stop)
    assert cache.rows(0, stop).all()
    cache.reset()
    assert not cache.rows(0, SLOTS).any()


def test_views_that_were_made_before_a_reset_see_what_is_written_after_it() -> None:
    cache = numbered_cache()
    view = cache.views(BUCKET)[0]
    cache.reset()
    cache.restore(0, np.ones((PARTS, 1, 3, WIDTH), np.float32))
    assert np.array_equal(view.numpy()[0, :3], np.ones((3, WIDTH)))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
def test_only_slots_in_use_take_memory() -> None:
    before, cache = resident(), KVCache(1, 8192, 512)
    cache.fill(np.random.default_rng(0), 1)
    little = resident() - before
    cache.fill(np.random.default_rng(0), cache.slots)
    much = resident() - before
    cache.reset()
    assert little < 2**23 < 2**24 < much
    assert resident() - before < 2**23


@given(bounds=st.tuples(st.integers(0, SLOTS), st.integers(0, SLOTS)).map(sorted), start=st.integers(0, SLOTS))
def test_copied_rows_are_the_same_at_another_place_and_are_zeroed_by_a_reset(bounds: list[int], start: int) -> None:
    size = min(bounds[1] - bounds[0], SLOTS - start)
    copied = numbered_cache().rows(bounds[0], bounds[0] + size)
    cache = KVCache(LAYERS, SLOTS, WIDTH)
    cache.restore(start, copied)
    assert np.array_equal(cache.rows(start, start + size), copied)
    assert not cache.rows(0, start).any()
    cache.reset()
    assert not cache.rows(0, SLOTS).any()


def test_a_copy_of_rows_does_not_follow_the_cache() -> None:
    cache = numbered_cache()
    copied = cache.rows(0, 3)
    cache.reset()
    assert copied.any()
