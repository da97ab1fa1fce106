"""What a call costs by its rows, lanes and context, and a text's share of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.drafting.costs import CONTEXT, MOST_ROWS, WIDTHS, Costs, SharedCosts

LINE = tuple(float(10 + rows) for rows in WIDTHS)
COSTS = Costs(verify=LINE, segments=(LINE, LINE), head=LINE)
LANED = Costs(LINE, (LINE,), LINE, ((2, 1.0), (4, 3.0)), ((2, 0.5), (4, 1.5)), token=0.01)
"""Measured for calls of up to 4 texts."""
TIMES = st.tuples(*[st.floats(0.01, 100.0)] * len(WIDTHS))


def test_costs_are_linear_between_the_widths_and_beyond_them() -> None:
    for rows in range(1, MOST_ROWS + 1):
        assert COSTS.verify_ms(rows) == pytest.approx(10 + rows)


@given(TIMES)
def test_costs_at_the_widths_are_those_that_were_measured(times: tuple[float, ...]) -> None:
    assert [Costs(times).verify_ms(rows) for rows in WIDTHS] == pytest.approx(list(times))


def test_costs_beyond_the_widths_never_fall_below_the_last_one_that_was_measured() -> None:
    times = (1.0, 1.0, 1.0, 1.0, 1.0, 900.0, 1.0)
    assert Costs(times).verify_ms(MOST_ROWS) == 1.0


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


# Several texts


@pytest.mark.parametrize(("lanes", "extra"), [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)])
def test_rows_of_several_texts_cost_more_than_those_of_one(lanes: int, extra: float) -> None:
    assert LANED.verify_ms(12, lanes) == pytest.approx(22 + extra)
    assert LANED.exit_ms(0, 12, 4, lanes) == pytest.approx(22 + extra / 2 + 14)


def test_more_texts_than_a_call_takes_are_several_calls_of_about_the_same_size() -> None:
    assert LANED.verify_ms(12, 8) == pytest.approx(2 * (10 + 6 + 3.0))
    assert LANED.verify_ms(12, 5) == pytest.approx(2 * (10 + 6 + 2.0))
    assert LANED.verify_ms(2 * MOST_ROWS, 2) == pytest.approx(2 * (10 + MOST_ROWS))


def test_costs_that_were_measured_for_one_text_take_texts_one_after_another() -> None:
    assert COSTS.verify_ms(6, 3) == pytest.approx(3 * 12)


@pytest.mark.parametrize(("context", "longer"), [(None, 0.0), (0, 0.0), (2 * CONTEXT, 0.0), (2 * CONTEXT + 300, 3.0)])
def test_committed_tokens_beyond_those_of_the_measurement_cost_more(context: int | None, longer: float) -> None:
    assert LANED.verify_ms(2, 2, context) == pytest.approx(13 + longer)


def test_of_lanes_that_only_one_measurement_has_its_times_count() -> None:
    few = Costs(LINE, (LINE,), LINE, ((2, 4.0),), ((2, 0.25),))
    for merged in (LANED.merged(few), few.merged(LANED)):
        assert merged.verify_lanes == ((2, 1.0), (4, 3.0))
        assert merged.segment_lanes == ((2, 0.25), (4, 1.5))
        assert merged.token == 0.0


def test_alone_a_text_bears_the_whole_cost() -> None:
    shared = SharedCosts(LANED)
    assert shared.verify_ms(9) == LANED.verify_ms(9)
    assert shared.exit_ms(0, 9, 3) == LANED.exit_ms(0, 9, 3)


def test_beside_others_a_texts_rows_cost_what_they_add_to_the_call() -> None:
    shared = SharedCosts(LANED, texts=4, others=10, lanes=4)
    assert shared.verify_ms(5) - shared.verify_ms(1) == pytest.approx(4.0)
    assert shared.verify_ms(5) == LANED.verify_ms(15, 4)


@given(texts=st.integers(1, 4), backlog=st.integers(1, 30), rows=st.integers(1, 8))
def test_texts_that_draft_alike_bear_equal_parts_of_the_drafts_calls(texts: int, backlog: int, rows: int) -> None:
    share = SharedCosts(LANED, texts, lanes=texts).exit_ms(0, backlog, rows)
    assert texts * share == pytest.approx(LANED.exit_ms(0, texts * backlog, texts * rows, texts))
    assert share <= LANED.exit_ms(0, backlog, rows) + 1e-9


def test_no_number_of_texts_is_too_large_for_the_costs() -> None:
    assert SharedCosts(LANED, texts=300, others=5000, lanes=300).exit_ms(0, 8, 8) > 0
    assert SharedCosts(LANED, texts=300, others=5000, lanes=300).verify_ms(8) > LANED.verify_ms(8)
