"""Whether a row computed alone has the bits that it has among others is computed, and exact calls depend on it."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.backends.cpu.backend import OnnxTarget, OnnxTargetContext
from s2d_trt.bundle import Bundle

ROWS = 5
TOKENS = np.arange(ROWS) + 40
CAUSAL = np.tri(ROWS, dtype=bool)
WIDE = 8


@pytest.fixture(params=["target_bundle", "other_target_bundle", "int8_target_bundle"])
def engine(request: pytest.FixtureRequest) -> OnnxTarget:
    return OnnxTarget(Bundle.open(request.getfixturevalue(request.param)), 1)


def one_by_one(context: OnnxTargetContext, start: int, exact_rows: int) -> np.ndarray:
    """Logits of the rows, each computed in a call of its own."""
    first, seen = np.array([0]), CAUSAL[:1, :1]
    calls = [(TOKENS[row : row + 1], np.array([start + row]), start + row) for row in range(ROWS)]
    return np.array([context.forward(*call, seen, first, exact_rows)[0].copy() for call in calls])


@pytest.mark.parametrize("start", [0, 61, 130])
def test_exact_calls_give_a_lone_row_the_bits_that_it_has_among_others(engine: OnnxTarget, start: int) -> None:
    together, apart = engine.context(), engine.context()
    for context in (together, apart):
        prompt = np.arange(start + 2)
        context.forward(prompt, prompt, 0, np.tri(len(prompt), dtype=bool), prompt[-1:], len(prompt))
    expected = together.forward(TOKENS, start + np.arange(ROWS), start, CAUSAL, np.arange(ROWS), WIDE)
    assert np.array_equal(one_by_one(apart, start, WIDE), expected)


def test_a_lone_row_of_logits_has_the_bits_that_it_has_among_others(engine: OnnxTarget) -> None:
    context, rows = engine.context(), np.arange(ROWS)
    every = context.forward(TOKENS, rows, 0, CAUSAL, rows, WIDE).copy()
    assert np.array_equal(context.forward(TOKENS, rows, 0, CAUSAL, rows[-1:], WIDE)[0], every[-1])


@pytest.mark.parametrize("agree", [True, False])
def test_the_answer_is_computed_once_and_only_for_an_exact_lone_row(
    engine: OnnxTarget, monkeypatch: pytest.MonkeyPatch, agree: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(engine, "lone_rows_agree", lambda: asked.append(True) or agree)
    context = engine.context()
    one_by_one(context, 0, exact_rows=0)
    context.forward(TOKENS, np.arange(ROWS), 0, CAUSAL, np.arange(ROWS), WIDE)
    assert not asked
    one_by_one(context, 0, exact_rows=WIDE)
    assert asked == [True]
    assert engine.needs_company is not agree


@pytest.mark.parametrize("needs_company", [True, False])
def test_an_answer_that_was_kept_is_taken(
    engine: OnnxTarget, monkeypatch: pytest.MonkeyPatch, needs_company: bool
) -> None:
    counts: list[int] = []
    engine.needs_company = needs_company
    context = engine.context()
    call = context._binding.call
    monkeypatch.setattr(context._binding, "call", lambda *sizes: counts.append(sizes[1]) or call(*sizes))
    one_by_one(context, 0, exact_rows=WIDE)
    assert counts == [2 if needs_company else 1] * ROWS
