"""The estimated speed-up is the true one where calls take what was measured, however slow the machine is just now."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.decoding.batch import CallReport
from runtime.drafting.costs import Costs
from runtime.drafting.proposal import Batch, StepTimes
from runtime.observability.speedup import ENOUGH_CALLS, FRESH_SECONDS, Estimate, SpeedUp
from tests.runtime.decoding.served import COSTS

HOST, DRAFT = 0.0005, 0.002
"""Seconds for each token, and of the draft's calls."""


def call(texts: int, rows: int, tokens: int, slowness: float = 1.0, **changes: Any) -> CallReport:
    """A call that takes what it should on a machine that is slower than it was measured."""
    costs: Costs | None = changes.pop("costs", COSTS)
    verify = COSTS.verify_ms(rows, texts) * slowness / 1e3
    draft = DRAFT * slowness if rows > texts else 0.0
    times = StepTimes(draft, verify, draft + verify + HOST * slowness * tokens)
    batch = Batch(texts, texts * (rows > texts), rows, tokens, lanes=texts, **changes)
    decoder = cast("Any", SimpleNamespace(costs=costs))
    return CallReport(decoder, [], batch, times, {}, [], 0.0)


@pytest.mark.parametrize("texts", [1, 4])
@pytest.mark.parametrize("slowness", [1.0, 3.0])
def test_it_is_what_the_same_tokens_would_have_taken(texts: int, slowness: float) -> None:
    speedup = SpeedUp()
    drafted, plain = call(texts, 6 * texts, 3 * texts, slowness), call(texts, texts, texts, slowness)
    for _ in range(20):
        estimate = speedup.observe(drafted)
    assert estimate is not None
    assert estimate.plain_seconds == pytest.approx(3 * plain.times.total)
    assert speedup.ratio == pytest.approx(3 * plain.times.total / drafted.times.total)


def test_it_is_one_where_nothing_is_drafted() -> None:
    speedup = SpeedUp()
    assert speedup.ratio == 1.0
    plain = call(2, 2, 2)
    assert speedup.observe(plain) == Estimate(plain.times.total, pytest.approx(plain.times.total))
    assert speedup.ratio == pytest.approx(1.0)


def test_drafts_that_are_rejected_make_it_less_than_one() -> None:
    speedup = SpeedUp()
    speedup.observe(call(1, 6, 1))
    assert speedup.ratio < 1


def test_the_hosts_work_without_drafting_is_learned_from_calls_without_drafts() -> None:
    speedup = SpeedUp()
    speedup.observe(call(1, 1, 1))
    busy = call(1, 6, 3)
    slow_host = StepTimes(busy.times.draft, busy.times.verify, busy.times.total + 0.1)
    estimate = speedup.observe(CallReport(busy.pair, [], busy.batch, slow_host, {}, [], 0.0))
    assert estimate is not None
    assert estimate.plain_seconds == pytest.approx(3 * call(1, 1, 1).times.total)


def test_calls_without_drafts_correct_costs_that_were_measured_wrongly() -> None:
    """Where rows cost more than was measured, a call of one row is even shorter."""
    speedup, plain, drafted = SpeedUp(), call(1, 1, 1), call(1, 6, 3, slowness=2.0)
    wrong = speedup.observe(drafted)
    for _ in range(ENOUGH_CALLS):
        speedup.observe(plain)
        right = speedup.observe(drafted)
    assert wrong is not None
    assert right is not None
    assert wrong.plain_seconds > 1.5 * right.plain_seconds
    assert right.plain_seconds == pytest.approx(3 * plain.times.total)


def test_they_no_longer_do_when_they_are_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    speedup, drafted = SpeedUp(), call(1, 6, 3, slowness=2.0)
    for _ in range(ENOUGH_CALLS):
        speedup.observe(call(1, 1, 1))
        speedup.observe(drafted)
    now = time.monotonic()
    monkeypatch.setattr("runtime.observability.speedup.time.monotonic", lambda: now + 2 * FRESH_SECONDS)
    estimate = speedup.observe(drafted)
    assert estimate is not None
    assert estimate.plain_seconds > 1.5 * 3 * call(1, 1, 1).times.total


@pytest.mark.parametrize("report", [call(1, 6, 3, prompt_rows=2), call(1, 6, 3, costs=None), call(0, 8, 0)])
def test_parts_of_prompts_and_unknown_costs_say_nothing(report: CallReport) -> None:
    speedup = SpeedUp()
    assert speedup.observe(report) is None
    assert speedup.ratio == 1.0
