"""The pace of steps: how many rows of prompts a step has room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.decoding.pace import CALL_IN_ROWS, LONGER, Pace

CALL, ROW = 0.05, 0.002


def seen(*rows: int, call: float = CALL, row: float = ROW) -> Pace:
    pace = Pace()
    for count in rows:
        pace.observe(count, call + row * count)
    return pace


@given(st.lists(st.integers(1, 64), min_size=40, max_size=200).filter(lambda rows: len(set(rows)) > 4))
def test_the_time_of_a_step_is_learned_from_steps(rows: list[int]) -> None:
    assert seen(*rows * 10).seconds(16) == pytest.approx(CALL + 16 * ROW, rel=0.1)


@pytest.mark.parametrize("prompts", [1, 3, 7])
@pytest.mark.parametrize("decoding", [1, 8])
def test_each_prompt_makes_a_step_longer_by_the_same_share(decoding: int, prompts: int) -> None:
    pace = seen(*[1, 9, 17, 33] * 100)
    room = pace.room(decoding, prompts)
    assert pace.seconds(decoding + room) == pytest.approx((1 + LONGER * prompts) * pace.seconds(decoding))


def test_prompts_do_not_pile_up_under_load() -> None:
    """Eight clients whose prompts take a third of the time: on average, about one prompt is read at a time."""
    pace, prompts, decoding, prompt_steps, steps = seen(*[1, 9, 17, 33] * 100), [300] * 8, list[int](), 0, 0
    while steps < 2000:
        steps, prompt_steps = steps + 1, prompt_steps + len(prompts)
        room = int(pace.room(len(decoding), len(prompts))) if decoding else 512
        decoding = [left - 1 for left in decoding if left > 1]
        while prompts and room > 0:
            part = min(room, prompts[0])
            room, prompts[0] = room - part, prompts[0] - part
            if not prompts[0]:
                prompts.pop(0)
                decoding.append(64)
        prompts += [300] * (8 - len(prompts) - len(decoding))
    assert prompt_steps / steps < 2


def test_before_any_step_a_call_costs_as_much_as_some_rows() -> None:
    assert Pace().room(1, 1) == pytest.approx(LONGER * (CALL_IN_ROWS + 1))


def test_one_step_is_enough_for_a_first_guess() -> None:
    pace = seen(4)
    assert pace.seconds(4) == pytest.approx(CALL + 4 * ROW)
    assert pace.room(4, 2) == pytest.approx(2 * LONGER * (CALL_IN_ROWS + 4))


def test_steps_of_one_size_leave_what_a_row_adds_as_it_was() -> None:
    pace = seen(*[1, 9, 17, 33] * 50)
    before = pace.seconds(33) - pace.seconds(1)
    for _ in range(2000):
        pace.observe(8, CALL + 8 * ROW)
    assert pace.seconds(33) - pace.seconds(1) == pytest.approx(before, rel=0.05)


def test_a_step_that_was_interrupted_counts_little() -> None:
    pace = seen(*[1, 9, 17, 33] * 50)
    before = pace.seconds(9)
    pace.observe(9, 100.0)
    assert pace.seconds(9) < 1.1 * before


def test_a_machine_that_becomes_slower_has_slower_steps() -> None:
    pace = seen(*[1, 9, 17, 33] * 50)
    for rows in [1, 9, 17, 33] * 100:
        pace.observe(rows, 2 * (CALL + ROW * rows))
    assert pace.seconds(9) == pytest.approx(2 * (CALL + 9 * ROW), rel=0.05)
