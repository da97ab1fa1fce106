"""The kernels compute what NumPy computes, on the stand-in and on a GPU, and NVRTC compiles them."""

from __future__ import annotations

import itertools
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
from runtime.backends.cuda.window import Window
from runtime.drafting.fixed import FixedBudget

PLACES = ["gpu", pytest.param("cuda", marks=pytest.mark.gpu)]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    """The stand-in or the GPU."""
    return request.getfixturevalue(request.param)


def put(place: Any, array: np.ndarray) -> Memory:
    """Copy an array to the device."""
    staging = Staging(place, {"array": (array.dtype, array.shape)})
    staging.arrays["array"][:] = array
    staging.upload()
    place.wait()
    return staging.device


def get(place: Any, memory: Memory, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Copy an array from the device."""
    size = int(np.dtype(dtype).itemsize * np.prod(shape))
    host = place.pinned(size)
    place.copy(host, memory.part(0, size))
    place.wait()
    return host.array().view(dtype).reshape(shape).copy()


@shared
@given(data=st.data(), lanes=st.integers(1, 4), rows=st.integers(1, 12), view=st.sampled_from([32, 100]))
def test_a_mask_shows_what_came_before_and_what_is_visible_and_padding_one_slot(
    place: Any, data: st.DataObject, lanes: int, rows: int, view: int
) -> None:
    rng = np.random.default_rng(view)
    expected, control, seen, shown = np.zeros((lanes, rows, view), bool), np.zeros((lanes, 4), np.int64), [], 0
    for lane in range(lanes):
        count = data.draw(st.integers(0, rows))
        start = data.draw(st.integers(0, view - rows))
        base = data.draw(st.integers(0, start))
        visible = rng.random((count, start + count - base)) < 0.5
        control[lane] = base, visible.shape[1], count, shown
        expected[lane, :count, :base] = True
        expected[lane, :count, base : start + count] = visible
        expected[lane, count:, 0] = True
        seen.append(visible.ravel())
        shown += visible.size
    mask = place.allocate(lanes * rows * view)
    where = put(place, np.concatenate([*seen, [False]])), put(place, control)
    threads = lanes * rows * view
    place.launch("expand_mask", threads, mask.address, where[0].address, where[1].address, rows, view)
    assert np.array_equal(get(place, mask, np.bool_, expected.shape), expected)


@shared
@given(data=st.data(), rows=st.integers(1, 9), words=st.integers(1, 40))
def test_rows_are_fetched_from_where_they_are_and_stored_where_they_belong_or_dropped(
    place: Any, data: st.DataObject, rows: int, words: int
) -> None:
    size = 30
    sources = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=rows, max_size=rows)))
    places = data.draw(st.permutations(range(size)))[:rows]
    destinations = np.array([where if data.draw(st.booleans()) else -1 for where in places])
    before = np.arange(size * words, dtype=np.uint32).reshape(size, words)
    block = 7_000_000 + np.arange(rows * words, dtype=np.uint32).reshape(rows, words)
    store, moved, named = put(place, before), put(place, block), put(place, destinations)
    place.launch("store_rows", rows * words, store.address, moved.address, named.address, words)
    expected = before.copy()
    expected[destinations[destinations >= 0]] = block[destinations >= 0]
    assert np.array_equal(get(place, store, np.uint32, (size, words)), expected)
    named = put(place, sources)
    place.launch("fetch_rows", rows * words, moved.address, store.address, named.address, words)
    assert np.array_equal(get(place, moved, np.uint32, (rows, words)), expected[sources])


@shared
@given(
    data=st.data(),
    planes=st.integers(1, 3),
    layers=st.integers(1, 3),
    texts=st.integers(1, 3),
    start=st.integers(0, 20),
)
def test_accepted_rows_of_one_text_move_into_place_in_every_cache(
    place: Any, data: st.DataObject, planes: int, layers: int, texts: int, start: int
) -> None:
    form = CacheForm("BHSD", planes, 64, 6, 12, texts)
    path = np.array(sorted(data.draw(st.sets(st.integers(1, 40), max_size=8)) | {0}))
    text = data.draw(st.integers(0, texts - 1))
    cache = DeviceCache(place, form, range(layers), texts)
    shape = (texts, planes, 64, 3)
    before = np.arange(2 * layers * np.prod(shape), dtype=np.uint32).reshape(2 * layers, *shape)
    for block, content in zip(cache._blocks, before, strict=True):
        place.copy(block, put(place, content).part(0, block.size))
    cache.move(text, Staging(place, {"move": (np.int64, (50,))}), start + path, start)
    for block, expected in zip(cache._blocks, before, strict=True):
        expected[text, :, start : start + len(path)] = expected[text, :, start + path].transpose(1, 0, 2)
        assert np.array_equal(get(place, block, np.uint32, shape), expected)


@pytest.mark.parametrize(("size", "kinds"), [(1, 1), (4, 7), (6, 11), (8, 15)])
def test_any_texts_of_a_pool_are_in_one_of_few_windows(size: int, kinds: int) -> None:
    windows = set()
    for count in range(1, size + 1):
        for texts in itertools.combinations(range(size), count):
            window = Window.around(texts, size)
            assert set(texts) <= set(window.texts) <= set(range(size))
            assert window.count == 1 or count > 1
            windows.add(window)
    assert len(windows) == kinds


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
