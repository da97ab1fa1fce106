"""Measuring what calls cost, and keeping it: once for a pair, robust against other load, one process at a time."""

from __future__ import annotations

import fcntl
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.backends.placement import Placement
from runtime.drafting import measurement
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.measurement import MOST_MEASUREMENTS, MOST_SECONDS, distrust, measure, measured_costs
from runtime.drafting.sorted_draft import SortedDraft
from runtime.machine import cache as cache_module
from runtime.targets.target import Target

FLAT = (1.0,) * len(WIDTHS)
COSTS = Costs(FLAT, (FLAT,) * 3, FLAT, segment_tokens=(0.0,) * 3)
Start = Callable[..., Costs]


def scaled(factor: float, **changes: object) -> Costs:
    times = tuple(factor * time for time in FLAT)
    return replace(COSTS, verify=times, segments=(times,) * 3, head=times, **changes)


# Measuring


@pytest.mark.parametrize("exact", [False, True])
def test_measured_costs_are_positive_and_grow_with_the_rows(target: Target, draft: SortedDraft, exact: bool) -> None:
    costs = measure(target, draft, exact=exact)
    assert len(costs.segments) == len(costs.segment_tokens) == len(draft.exits)
    assert min(costs.token, *costs.segment_tokens) >= 0
    for times in (costs.verify, *costs.segments, costs.head):
        assert len(times) == len(WIDTHS)
        assert times[0] > 0
        assert list(times) == sorted(times)


def test_without_a_draft_model_the_targets_calls_are_measured(target: Target) -> None:
    costs = measure(target, None)
    assert (len(costs.verify), costs.segments, costs.head) == (len(WIDTHS), (), ())


@pytest.mark.parametrize(("texts", "lanes"), [(1, []), (2, [2]), (3, [2, 4])])
def test_calls_of_several_texts_are_measured_as_far_as_so_many_texts_need_them(
    target: Target, draft: SortedDraft, texts: int, lanes: list[int]
) -> None:
    costs = measure(target, draft, lanes=texts)
    for extra in (costs.verify_lanes, costs.segment_lanes):
        assert [count for count, _ in extra] == lanes
        assert all(milliseconds >= 0 for _, milliseconds in extra)


@pytest.fixture(scope="module")
def short_target(target_checkpoint: Path, engines: Path) -> Target:
    """The target with a cache of 32 positions, fewer than the widest call has rows."""
    from export import target

    out = engines / "short-target.engine"
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--max-length", "32", "--no-parity"])
    return Target.open(out, Placement(threads=1))


@pytest.mark.parametrize("exact", [False, True])
def test_caches_that_are_shorter_than_the_widest_call_are_measured_as_far_as_they_go(
    short_target: Target, short_draft: SortedDraft, exact: bool
) -> None:
    assert len(measure(short_target, short_draft, exact=exact).verify) == len(WIDTHS)


def test_a_measurement_gives_back_what_it_leased(target: Target, draft: SortedDraft) -> None:
    measure(target, draft)
    verifying, drafting = target.lease(), draft.empty_sequence()
    target.release(verifying)
    drafting.release()
    measure(target, draft)
    assert target.lease() is verifying
    assert draft.empty_sequence() is drafting
    target.release(verifying)
    drafting.release()


CALLS = 5 * len(WIDTHS) + 4
"""Of one round: the target, three segments and the head, at each width; target and segments behind a longer text."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], float]], list[int]]:
    """Makes each call take the milliseconds that a function gives for its round and its number in it.

    Returns the list of the measured rounds.
    """

    def install(milliseconds: Callable[[int, int], float]) -> list[int]:
        rounds: list[int] = []

        def readings() -> Iterator[float]:
            now = 0.0
            for _ in range(2 * CALLS):  # the first call of each width, which is not counted
                yield now
            yield now  # the beginning of the rounds
            for index in itertools.count():
                if index >= 2:
                    yield now  # whether there is time for another round
                rounds.append(index)
                for call in range(CALLS):
                    seconds = milliseconds(index, call) / 1e3
                    warm = 0 if seconds > measurement.LONG_CALL else measurement.WARM_CALLS
                    # The first call of its kind finds cold caches.
                    for each in (seconds + 0.001 * (warm > 0), *[seconds] * warm):
                        yield now
                        now += each
                        yield now

        monkeypatch.setattr(measurement, "time", SimpleNamespace(perf_counter=readings().__next__))
        return rounds

    return install


def test_rounds_that_agree_are_steady(target: Target, draft: SortedDraft, clock) -> None:
    clock(lambda index, call: 2.0 + 0.1 * index)
    costs = measure(target, draft)
    assert costs.steady
    assert costs.verify == pytest.approx([2.0] * len(WIDTHS))


def test_of_each_call_the_fastest_round_counts(target: Target, draft: SortedDraft, clock) -> None:
    clock(lambda index, call: 1.0 + (index + call) % 3)
    costs = measure(target, draft)
    assert [*costs.verify, *sum(costs.segments, ()), *costs.head] == pytest.approx([1.0] * 5 * len(WIDTHS))


def test_a_burst_of_other_load_spoils_nothing(target: Target, draft: SortedDraft, clock) -> None:
    clock(lambda index, call: 40.0 if index in (1, 2) else 1.0)
    costs = measure(target, draft)
    assert costs.steady
    assert costs.verify == pytest.approx([1.0] * len(WIDTHS))


def test_rounds_that_disagree_for_most_calls_are_not_steady(target: Target, draft: SortedDraft, clock) -> None:
    rng = np.random.default_rng(0)
    clock(lambda index, call: rng.uniform(1.0, 4.0))
    assert not measure(target, draft).steady


def test_more_rows_never_cost_less(target: Target, draft: SortedDraft, clock) -> None:
    clock(lambda index, call: [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 6.0][call % len(WIDTHS)])
    assert measure(target, draft).verify == pytest.approx([3.0, 3.0, 3.0, 5.0, 5.0, 6.0, 6.0])


def test_slow_calls_are_measured_in_two_rounds(target: Target, draft: SortedDraft, clock) -> None:
    rounds = clock(lambda index, call: MOST_SECONDS * 1e3 / CALLS)
    measure(target, draft)
    assert len(rounds) == 2


# Keeping


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty directory of kept costs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "s2d-trt" / "costs"


@pytest.fixture
def start(target: Target, draft: SortedDraft, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """The costs that a start uses, if a measurement gives the first argument; None where it must not measure."""

    def begin(
        measured: Costs | None, *, exact: bool = False, again: bool = False, pair=(target, draft), lanes: int = 1
    ) -> Costs:
        messages: list[str] = []
        monkeypatch.setattr(measurement, "measure", lambda *_, **__: measured)
        costs = measured_costs(*pair, messages.append, exact=exact, again=again, lanes=lanes)
        assert len(messages) == (measured is not None)
        return costs

    return begin


def test_steady_costs_are_measured_once_and_kept(start: Start) -> None:
    assert start(COSTS) == COSTS
    assert start(None) == COSTS


def test_costs_of_more_texts_than_were_measured_are_measured_at_the_next_start(start: Start) -> None:
    laned = replace(scaled(2.0), verify_lanes=((2, 0.5), (4, 0.9)), segment_lanes=((2, 0.1), (4, 0.2)))
    start(COSTS)
    assert start(laned, lanes=3) == laned
    for lanes in (1, 2, 4):
        assert start(None, lanes=lanes) == laned


def test_each_pair_and_each_way_to_call_the_target_has_costs_of_its_own(
    start: Start, target: Target, other_target: Target, draft: SortedDraft, short_draft: SortedDraft
) -> None:
    start(COSTS)
    assert start(scaled(2.0), exact=True) == scaled(2.0)
    assert start(scaled(3.0), pair=(other_target, draft)) == scaled(3.0)
    assert start(scaled(4.0), pair=(target, short_draft)) == scaled(4.0)
    assert start(Costs(FLAT), pair=(target, None)) == Costs(FLAT)
    assert start(None) == COSTS


@pytest.mark.parametrize("name", ["processor_identity", "onnxruntime", "__version__"])
def test_another_processor_or_another_version_measures_again(
    start: Start, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(COSTS)
    changes = {
        "processor_identity": lambda: "another processor",
        "onnxruntime": SimpleNamespace(__version__="0.0"),
        "__version__": "0.0",
    }
    monkeypatch.setattr(cache_module, name, changes[name])
    assert start(scaled(2.0)) == scaled(2.0)


def test_unsteady_costs_are_used_and_improve_at_the_next_start(start: Start) -> None:
    assert start(scaled(3.0, steady=False)).verify == scaled(3.0).verify
    improved = start(scaled(2.0))
    assert (improved.verify, improved.steady, improved.measurements) == (scaled(2.0).verify, True, 2)
    assert start(None) == improved


def test_a_busier_second_start_spoils_nothing(start: Start) -> None:
    start(scaled(1.0, steady=False))
    assert start(scaled(9.0, steady=False)).verify == FLAT


def test_costs_that_never_become_steady_are_measured_a_few_times(start: Start) -> None:
    for count in range(1, MOST_MEASUREMENTS + 1):
        assert start(scaled(1.0, steady=False)).measurements == count
    assert start(None).measurements == MOST_MEASUREMENTS


def test_costs_that_steps_disagree_with_are_measured_again_at_the_next_start(
    start: Start, target: Target, draft: SortedDraft
) -> None:
    start(scaled(2.0))
    distrust(target, draft, exact=False)
    assert start(COSTS).verify == FLAT
    assert start(None).steady


def test_costs_that_steps_go_on_disagreeing_with_are_measured_a_few_times(
    start: Start, target: Target, draft: SortedDraft
) -> None:
    for _ in range(MOST_MEASUREMENTS):
        start(COSTS)
        distrust(target, draft, exact=False)
    assert start(None).measurements == MOST_MEASUREMENTS


def test_distrust_of_costs_that_were_never_measured_changes_nothing(
    target: Target, draft: SortedDraft, cache: Path
) -> None:
    distrust(target, draft, exact=False)
    assert not list(cache.glob("*.json"))


def test_a_user_may_have_costs_measured_again_which_replaces_them(start: Start) -> None:
    start(COSTS)
    assert start(scaled(2.0), again=True) == scaled(2.0)
    assert start(None) == scaled(2.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "",
        lambda kept: "{",
        lambda kept: "[]",
        lambda kept: json.dumps(kept | {"verify": kept["verify"][1:]}),
        lambda kept: json.dumps(kept | {"verify": [0.0] * len(WIDTHS)}),
        lambda kept: json.dumps(kept | {"head": [float("nan")] * len(WIDTHS)}),
        lambda kept: json.dumps(kept | {"head": ["fast"] * len(WIDTHS)}),
        lambda kept: json.dumps(kept | {"segments": kept["segments"][1:]}),
        lambda kept: json.dumps({name: kept[name] for name in ("verify", "segments")}),
        lambda kept: json.dumps(kept | {"verify": ["1.0"] * len(WIDTHS)}),
        lambda kept: json.dumps(kept | {"verify": [1e300] * len(WIDTHS)}),
        lambda kept: json.dumps(kept | {"token": -1}),
        lambda kept: json.dumps(kept | {"verify_lanes": [[4, 1.0], [2, 1.0]]}),
        lambda kept: json.dumps(kept | {"verify_lanes": [[2]]}),
        lambda kept: "[" * 100_000,
        lambda kept: json.dumps(kept | {"verify": None}),
    ],
)
def test_a_damaged_file_is_measured_anew(start: Start, cache: Path, damage: Callable[[dict], str]) -> None:
    start(COSTS)
    (kept,) = cache.glob("*.json")
    kept.write_text(damage(json.loads(kept.read_text())))
    assert start(scaled(2.0)) == scaled(2.0)
    assert start(None) == scaled(2.0)


def test_without_a_cache_directory_every_start_measures(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert start(COSTS) == COSTS
    assert start(scaled(2.0)) == scaled(2.0)


def test_one_process_measures_at_a_time(
    target: Target, draft: SortedDraft, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measuring(*_: object, **__: object) -> Costs:
        (lock,) = cache.glob("*.lock")
        with lock.open("a") as another, pytest.raises(BlockingIOError):
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return COSTS

    monkeypatch.setattr(measurement, "measure", measuring)
    assert measured_costs(target, draft, lambda _: None, exact=False) == COSTS
    (lock,) = cache.glob("*.lock")
    with lock.open("a") as another:
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)


def meanwhile(measured: Costs, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another process keep ``measured`` while the next start waits for the lock."""
    start(measured)
    (written,) = (Path(cache_module.cache_directory()) / "costs").glob("*.json")
    text = written.read_text()
    written.unlink()

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        path.write_text(text)
        yield

    monkeypatch.setattr(measurement, "exclusive", exclusive)


def test_what_another_process_measured_meanwhile_is_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(scaled(2.0), start, monkeypatch)
    assert start(None) == scaled(2.0)


def test_unsteady_costs_that_another_process_measured_meanwhile_are_improved(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(scaled(2.0, steady=False), start, monkeypatch)
    costs = start(scaled(3.0))
    assert (costs.verify, costs.measurements) == (scaled(2.0).verify, 2)
