"""Whether a row computed alone has the bits that it has among others is computed, and exact calls depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from runtime.backends import TargetLane
from runtime.backends.cpu.backend import OnnxTarget, OnnxTargetContext
from s2d_trt.bundle import Bundle

ROWS = 5
TOKENS = np.arange(ROWS) + 40
CAUSAL = np.tri(ROWS, dtype=bool)
WIDE = 8


@pytest.fixture(params=["target_bundle", "other_target_bundle", "int8_target_bundle"])
def engine(request: pytest.FixtureRequest) -> OnnxTarget:
    return OnnxTarget(Bundle.open(request.getfixturevalue(request.param)), 1)


def chain(
    context: OnnxTargetContext, rows: range, start: int, exact_rows: int = 0, logit_rows: np.ndarray | None = None
) -> TargetLane:
    """``rows`` of a chain whose first row is at ``start``; every row's logits unless others are wanted."""
    size, first = len(rows), start + rows.start
    wanted = np.arange(size) if logit_rows is None else logit_rows
    positions, tokens = first + np.arange(size), TOKENS[rows.start : rows.stop]
    return TargetLane(context, tokens, positions, first, first, CAUSAL[:size, :size], wanted, exact_rows)


def prompt(context: OnnxTargetContext, length: int) -> TargetLane:
    rows = np.arange(length)
    return TargetLane(context, rows, rows, 0, 0, np.tri(length, dtype=bool), rows[-1:], length)


def one_by_one(engine: OnnxTarget, context: OnnxTargetContext, start: int, exact_rows: int) -> np.ndarray:
    """Logits of the rows, each computed in a call of its own."""
    lanes = (chain(context, range(row, row + 1), start, exact_rows) for row in range(ROWS))
    return np.array([engine.forward([lane])[0][0].copy() for lane in lanes])


@pytest.mark.parametrize("start", [0, 61, 130])
def test_exact_calls_give_a_lone_row_the_bits_that_it_has_among_others(engine: OnnxTarget, start: int) -> None:
    together, apart = engine.context(), engine.context()
    for context in (together, apart):
        engine.forward([prompt(context, start + 2)])
    expected = engine.forward([chain(together, range(ROWS), start, WIDE)])[0].copy()
    assert np.array_equal(one_by_one(engine, apart, start, WIDE), expected)


def test_a_lone_row_of_logits_has_the_bits_that_it_has_among_others(engine: OnnxTarget) -> None:
    context = engine.context()
    every = engine.forward([chain(context, range(ROWS), 0, WIDE)])[0].copy()
    last = engine.forward([chain(context, range(ROWS), 0, WIDE, np.array([ROWS - 1]))])[0]
    assert np.array_equal(last, every[-1:])


@pytest.mark.parametrize("agree", [True, False])
def test_the_answer_is_computed_once_and_only_for_an_exact_lone_row(
    engine: OnnxTarget, monkeypatch: pytest.MonkeyPatch, agree: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(engine, "lone_rows_agree", lambda: asked.append(True) or agree)
    context = engine.context()
    one_by_one(engine, context, 0, exact_rows=0)
    engine.forward([chain(context, range(ROWS), 0, WIDE)])
    assert not asked
    one_by_one(engine, context, 0, exact_rows=WIDE)
    assert asked == [True]
    assert engine.needs_company is not agree


@pytest.mark.parametrize("needs_company", [True, False])
def test_an_answer_that_was_kept_is_taken(
    engine: OnnxTarget, monkeypatch: pytest.MonkeyPatch, needs_company: bool
) -> None:
    counts: list[int] = []
    engine.needs_company = needs_company
    prepare = engine._layers.prepare

    def counted(lanes: Sequence[TargetLane], *others: Any) -> Any:
        counts.append(len(lanes[0].tokens))
        return prepare(lanes, *others)

    monkeypatch.setattr(engine._layers, "prepare", counted)
    one_by_one(engine, engine.context(), 0, exact_rows=WIDE)
    assert counts == [2 if needs_company else 1] * ROWS
