"""Several texts in one call, on a stand-in for the GPU: each gets what it gets alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import DraftEngines, HeadLane, Lane, TargetEngine, TargetLane
from s2d_trt.bundle import Bundle

TREE = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], bool)
TEXTS = [[7, 8, 9, 10, 11], [20], [30, 31, 32]]


@pytest.fixture
def target(static_bundles: tuple[Path, Path], backend: Any) -> TargetEngine:
    engine: TargetEngine = backend.target(Bundle.open(static_bundles[1]))
    return engine


@pytest.fixture
def draft(static_bundles: tuple[Path, Path], backend: Any) -> DraftEngines:
    engines: DraftEngines = backend.draft(Bundle.open(static_bundles[0]))
    return engines


def chain(context: Any, tokens: Sequence[int], start: int = 0) -> TargetLane:
    """Rows of which each reads all rows before it; the logits of all."""
    rows = np.arange(len(tokens))
    visible = np.tri(len(tokens), dtype=bool)
    return TargetLane(context, np.array(tokens), start + rows, start, start, visible, rows)


def tree(context: Any, start: int) -> TargetLane:
    """A tree of four nodes."""
    return TargetLane(context, np.arange(4) + 50, start + TREE.sum(1) - 1, start, start, TREE, np.arange(4))


def logits(engine: TargetEngine, lanes: Sequence[TargetLane]) -> list[np.ndarray]:
    """The logits of all rows of a call, lane after lane."""
    found = engine.forward(lanes)
    return [np.array([each[row] for row in range(len(lane.tokens))]) for each, lane in zip(found, lanes, strict=True)]


def test_each_text_of_a_call_gets_the_logits_that_it_gets_alone(target: TargetEngine) -> None:
    together, alone = ([target.context() for _ in TEXTS] for _ in range(2))
    for step in (
        lambda contexts: [chain(context, text) for context, text in zip(contexts, TEXTS, strict=True)],
        lambda contexts: [tree(contexts[2], 3), chain(contexts[0], [40, 41], 5)],
        lambda contexts: [chain(contexts[1], [60], 1)],
        lambda contexts: [chain(contexts[0], [61], 7), tree(contexts[1], 2), chain(contexts[2], [62, 63], 4)],
    ):
        expected = [logits(target, [lane])[0] for lane in step(alone)]
        for ours, theirs in zip(logits(target, step(together)), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-2)


def test_the_candidates_of_one_text_do_not_overwrite_anothers(draft: DraftEngines) -> None:
    contexts, exits = [draft.context() for _ in TEXTS], 3
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(300).astype(np.float32) for _ in TEXTS]
    lanes = [
        Lane(context, np.array(text), np.arange(len(text)), 0, 0, np.tri(len(text), dtype=bool))
        for context, text in zip(contexts, TEXTS, strict=True)
    ]
    for segment in range(exits):
        draft.forward(segment, lanes)
    heads = [HeadLane(lane.context, 2, 0, len(lane.tokens), row) for lane, row in zip(lanes, noise, strict=True)]
    together = draft.candidates(heads)
    copies = [(tokens.copy(), logprobs.copy()) for tokens, logprobs in together]
    for head, (tokens, logprobs) in zip(heads, copies, strict=True):
        ((alone, expected),) = draft.candidates([head])
        assert np.array_equal(tokens, alone)
        assert logprobs == pytest.approx(expected, abs=1e-2)
