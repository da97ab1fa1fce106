"""What calls cost on this machine: measured once, kept, and read between the measured widths."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.drafting.costs import MOST_ROWS, WIDTHS, Costs, load_costs, measure
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets.target import Target

LINE = tuple(float(10 + rows) for rows in WIDTHS)
COSTS = Costs(verify=LINE, segments=(LINE, LINE), head=LINE)


def test_costs_lie_on_a_line_between_the_widths_and_go_on_behind_them() -> None:
    assert COSTS.of_verify[1:] == pytest.approx([10 + rows for rows in range(1, MOST_ROWS + 1)])


def test_no_rows_cost_nothing() -> None:
    assert COSTS.of_verify[0] == 0.0


def test_an_exit_costs_its_segment_on_what_waits_and_the_head_on_the_frontier() -> None:
    assert COSTS.of_exit(1, waiting=20, rows=4) == pytest.approx(30 + 14)


def test_more_rows_than_one_call_takes_are_several_calls() -> None:
    full = 10 + MOST_ROWS
    assert COSTS.of_exit(0, waiting=2 * MOST_ROWS + 3, rows=1) == pytest.approx(2 * full + 13 + 11)


def test_measured_costs_are_positive_and_grow_with_the_rows(target: Target, draft: SortedDraft) -> None:
    costs = measure(target, draft)
    for found in (costs.verify, *costs.segments, costs.head):
        assert len(found) == len(WIDTHS)
        assert found[0] > 0
        assert list(found) == sorted(found)
    assert len(costs.segments) == len(draft.exits)


def test_a_short_cache_is_measured_too(target: Target, short_draft: SortedDraft) -> None:
    assert len(measure(target, short_draft).segments) == 3


def test_costs_are_measured_once_for_a_pair(
    target: Target, draft: SortedDraft, short_draft: SortedDraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load_costs(target, draft)
    monkeypatch.setattr("runtime.drafting.costs.measure", lambda *_: COSTS)
    assert load_costs(target, draft) == first
    assert load_costs(target, short_draft) == COSTS


def test_a_damaged_or_unwritable_cache_is_measured_around(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("runtime.drafting.costs.measure", lambda *_: COSTS)
    assert load_costs(target, draft) == COSTS
