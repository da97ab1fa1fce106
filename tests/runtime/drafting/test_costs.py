"""What a call costs by its number of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.costs import MOST_ROWS, WIDTHS, Costs

LINE = tuple(float(10 + rows) for rows in WIDTHS)
COSTS = Costs(verify=LINE, segments=(LINE, LINE), head=LINE)
TIMES = st.tuples(*[st.floats(0.01, 100.0)] * len(WIDTHS))


def test_costs_are_linear_between_the_widths_and_beyond_them() -> None:
    for rows in range(1, MOST_ROWS + 1):
        assert COSTS.verify_ms(rows) == pytest.approx(10 + rows)


@given(TIMES)
def test_costs_at_the_widths_are_those_that_were_measured(times: tuple[float, ...]) -> None:
    assert [Costs(times).verify_ms(rows) for rows in WIDTHS] == pytest.approx(list(times))


def test_no_rows_cost_nothing() -> None:
    assert COSTS.verify_ms(0) == 0.0


def test_an_exit_costs_its_segment_on_the_backlog_and_the_head_on_the_frontier() -> None:
    assert COSTS.exit_ms(1, backlog=20, rows=4) == pytest.approx(30 + 14)


def test_more_rows_than_one_call_takes_are_several_calls() -> None:
    assert COSTS.exit_ms(0, backlog=2 * MOST_ROWS + 3, rows=1) == pytest.approx(2 * (10 + MOST_ROWS) + 13 + 11)


@given(*[TIMES] * 4)
def test_of_two_measurements_the_smaller_times_count(one, other, segment, head) -> None:
    ours = Costs(one, (segment, one), head, steady=True)
    merged = ours.merged(Costs(other, (other, segment), segment, steady=False, measurements=2))
    assert merged.verify == tuple(map(min, one, other))
    assert merged.segments == (tuple(map(min, segment, other)), tuple(map(min, one, segment)))
    assert merged.head == tuple(map(min, head, segment))
    assert (merged.steady, merged.measurements) == (True, 3)


def test_costs_without_a_draft_model_are_those_of_the_target() -> None:
    assert Costs(LINE).merged(Costs(LINE)) == Costs(LINE, measurements=2)
