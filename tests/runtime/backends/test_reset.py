"""A reset zeroes what a text left in a context: a NaN in a masked slot would reach the next text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import Backend, DraftEngines, HeadLane, Lane, TargetEngine, TargetLane
from runtime.backends.cpu.backend import OnnxRuntime
from s2d_trt.bundle import Bundle
from tests.conftest import llama_config, random_model, save_checkpoint
from tests.runtime.backends.conftest import built

POISON = 7
"""The token whose value in layer 0 overflows to infinity."""
EXITS = (1, 2)


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> dict[str, Bundle]:
    """A draft and a target of two layers; only ``POISON`` has a number in the dimension with the huge weights."""
    import torch

    checkpoint = tmp_path_factory.mktemp("overflowing")
    model = random_model(llama_config(num_hidden_layers=2), seed=5)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = 0.0
        embedding[POISON] = torch.eye(embedding.shape[1])[0]
        model.model.layers[0].self_attn.v_proj.weight[:, 0] = 3e38
    save_checkpoint(model, checkpoint, EXITS)
    return {
        kind: Bundle.open(built(module, checkpoint, engines / f"overflowing-{kind}.engine"))
        for kind, module in (("draft", "build"), ("target", "target"))
    }


@pytest.fixture(params=["cpu", "gpu"])
def either(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = OnnxRuntime(1) if request.param == "cpu" else request.getfixturevalue("backend")
    return backend


def target_row(engine: TargetEngine, context: Any, tokens: list[int]) -> np.ndarray:
    """Logits after ``tokens``, which fill the context from its first slot on."""
    rows = np.arange(len(tokens))
    ids, visible = np.array(tokens), np.tri(len(tokens), dtype=bool)
    (logits,) = engine.forward([TargetLane(context, ids, rows, 0, 0, visible, rows[-1:])])
    return np.array(logits[0])


def draft_row(engines: DraftEngines, context: Any, tokens: list[int]) -> np.ndarray:
    """The last exit's log-probabilities after ``tokens``."""
    rows = np.arange(len(tokens))
    lane = Lane(context, np.array(tokens), rows, 0, 0, np.tri(len(tokens), dtype=bool))
    for segment in range(len(EXITS)):
        engines.forward(segment, [lane])
    last = HeadLane(context, len(EXITS) - 1, len(tokens) - 1, len(tokens), np.zeros(300, np.float32))
    return np.array(engines.candidates([last])[0][1])


@pytest.mark.parametrize(("kind", "row"), [("target", target_row), ("draft", draft_row)])
def test_a_text_that_overflowed_leaves_nothing_behind(
    overflowing: dict[str, Bundle], either: Backend, kind: str, row: Callable[..., np.ndarray]
) -> None:
    engine = getattr(either, kind)(overflowing[kind])
    used, fresh = engine.context(), engine.context()
    assert not np.isfinite(row(engine, used, [3, 5, 9, POISON, POISON])).all()
    assert not np.isfinite(row(engine, used, [3, 5, 9])).all()  # masked rows leak
    used.reset()
    expected = row(engine, fresh, [3, 5, 9])
    assert np.isfinite(expected).all()
    assert np.array_equal(row(engine, used, [3, 5, 9]), expected)


def test_a_reset_of_an_unused_context_does_nothing(overflowing: dict[str, Bundle], gpu: Any, backend: Any) -> None:
    engine = backend.target(overflowing["target"])
    context = engine.context()
    before = gpu.sent
    context.reset()
    assert gpu.sent == before
    target_row(engine, context, [3])
    before = gpu.sent
    context.reset()
    assert gpu.sent > before
