"""The kernels: what they compute, on the CPU and where there is one on a GPU, and that NVRTC compiles them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.backends.cuda.buckets import Buckets
from runtime.backends.cuda.cascade import COUNT, LARGEST, PATHS, THRESHOLDS
from runtime.backends.cuda.device import SOURCES, compile_kernels, kernel_source
from runtime.backends.cuda.graph import CacheForm, DeviceCache
from runtime.backends.cuda.memory import Memory, Staging
from runtime.drafting.fixed import FixedBudget

PLACES = ["gpu", pytest.param("cuda", marks=pytest.mark.gpu)]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    """The stand-in, and the GPU."""
    return request.getfixturevalue(request.param)


def put(place: Any, array: np.ndarray) -> Memory:
    """The array on the device."""
    staging = Staging(place, {"array": (array.dtype, array.shape)})
    staging.arrays["array"][:] = array
    staging.upload()
    place.wait()
    return staging.device


def get(place: Any, memory: Memory, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array that the device has."""
    size = int(np.dtype(dtype).itemsize * np.prod(shape))
    host = place.pinned(size)
    place.copy(host, memory.part(0, size))
    place.wait()
    return host.array().view(dtype).reshape(shape).copy()


@shared
@given(data=st.data(), rows=st.integers(1, 12), view=st.sampled_from([32, 100]))
def test_a_mask_shows_what_came_before_and_what_is_visible_and_padding_one_slot(
    place: Any, data: st.DataObject, rows: int, view: int
) -> None:
    count = data.draw(st.integers(1, rows))
    start = data.draw(st.integers(0, view - rows))
    base = data.draw(st.integers(0, start))
    width = start + count - base
    visible = np.random.default_rng(base).random((count, width)) < 0.5
    control = np.array([start, base, width, count, 0, 0])
    mask = place.allocate(rows * view)
    where = put(place, visible), put(place, control)
    place.launch("expand_mask", rows * view, mask.address, where[0].address, where[1].address, view)
    expected = np.zeros((rows, view), bool)
    expected[:count, :base] = True
    expected[:count, base : start + count] = visible
    expected[count:, 0] = True
    assert np.array_equal(get(place, mask, np.bool_, (rows, view)), expected)


@shared
@given(data=st.data(), rows=st.integers(1, 9), words=st.integers(1, 40))
def test_rows_are_fetched_with_their_padding_and_stored_without(
    place: Any, data: st.DataObject, rows: int, words: int
) -> None:
    size = 30
    count, source, destination = (data.draw(st.integers(low, high)) for low, high in ((1, rows), (0, 20), (0, 20)))
    before = np.arange(size * words, dtype=np.uint32).reshape(size, words)
    block = 7_000_000 + np.arange(rows * words, dtype=np.uint32).reshape(rows, words)
    store, moved = put(place, before), put(place, block)
    control = put(place, np.array([0, 0, 0, count, source, destination]))
    place.launch("store_rows", rows * words, store.address, moved.address, control.address, words)
    expected = before.copy()
    expected[destination : destination + count] = block[:count]
    assert np.array_equal(get(place, store, np.uint32, (size, words)), expected)
    place.launch("fetch_rows", rows * words, moved.address, store.address, control.address, words)
    assert np.array_equal(get(place, moved, np.uint32, (rows, words)), expected[source : source + rows])


@shared
@given(data=st.data(), planes=st.integers(1, 3), layers=st.integers(1, 3), start=st.integers(0, 20))
def test_accepted_rows_move_into_place_in_every_cache(
    place: Any, data: st.DataObject, planes: int, layers: int, start: int
) -> None:
    form = CacheForm("BHSD", planes, 64, 6, 12)
    path = sorted(data.draw(st.sets(st.integers(1, 40), max_size=8)) | {0})
    cache = DeviceCache(place, form, range(layers))
    stride = cache._stride // 4
    before = np.arange(2 * layers * stride, dtype=np.uint32)
    source = put(place, before)
    place.copy(cache._block, source.part(0, cache._block.size))
    cache.move(start + np.array(path), start)
    found = get(place, cache._block, np.uint32, (2 * layers, stride))
    for part, after in zip(before.reshape(2 * layers, stride), found, strict=True):
        expected = part[: planes * 64 * 3].reshape(planes, 64, 3).copy()
        expected[:, start : start + len(path)] = expected[:, start + np.array(path)]
        assert np.array_equal(after[: planes * 64 * 3].reshape(planes, 64, 3), expected)
        assert np.array_equal(after[planes * 64 * 3 :], part[planes * 64 * 3 :])


@shared
@given(data=st.data(), rows=st.integers(1, 10), exit_index=st.integers(0, 2), rule=st.sampled_from(["mean", "max"]))
def test_the_device_decides_as_the_host_does(
    place: Any, data: st.DataObject, rows: int, exit_index: int, rule: Any
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    thresholds = tuple(rng.random(3))
    paths, logprobs = -rng.exponential(size=rows), -rng.exponential(size=(rows, 4)).astype(np.float32)
    budget = FixedBudget((*thresholds, 0.0), rule)
    decision = np.zeros(PATHS + rows)
    decision[COUNT], decision[LARGEST] = rows, rule == "max"
    decision[THRESHOLDS : THRESHOLDS + 3] = thresholds
    decision[PATHS:] = paths
    where = put(place, logprobs), put(place, decision), place.allocate(8)

    def steps() -> None:
        condition = place.condition()
        addresses = (where[0].address, 4, where[1].address, where[2].address)
        place.launch("decide", 1, *addresses, exit_index, condition)
        # A node that runs only where the next exit is asked for.
        place.when(condition, lambda: place.launch("decide", 1, *addresses, 7, 0))

    place.record(steps)()
    place.wait()
    asked = int(get(place, where[2], np.int64, (1,))[0]) == 7
    assert asked != budget.answers(exit_index, paths, logprobs[:, 0], 0)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_89", "sm_90", "sm_120"])
@pytest.mark.parametrize("source", SOURCES)
def test_nvrtc_compiles_every_kernel(source: str, architecture: str) -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    code = bytes(compile_kernels(architecture, kernel_source(source)).code)
    assert all(kernel.encode() in code for kernel in SOURCES[source])


def test_staging_is_written_again_only_when_its_transfer_is_done(gpu: Any) -> None:
    staging = Staging(gpu, {"a": (np.int64, (3,)), "b": (np.float32, (2, 2))})
    assert all(address % 256 == 0 for address in staging.addresses.values())
    staging.open()
    staging.upload()
    staging.close()
    assert gpu.done < gpu.sent
    staging.open()
    assert gpu.done == gpu.sent


@given(largest=st.integers(1, 300), data=st.data())
def test_a_bucket_holds_its_rows_and_wastes_less_than_half(largest: int, data: st.DataObject) -> None:
    buckets = Buckets(largest, (min(largest, 64),))
    rows = data.draw(st.integers(1, largest))
    room = data.draw(st.integers(rows, 400))
    bucket = buckets.fit(rows, room)
    assert rows <= bucket <= min(room, largest)
    assert bucket < 2 * rows
    assert buckets.fit(bucket, room) == bucket
