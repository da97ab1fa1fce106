"""A reset zeroes what a text left in a context: a NaN in a masked slot would reach the next text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import Backend, DraftContext, TargetContext
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


def target_row(context: TargetContext, tokens: list[int]) -> np.ndarray:
    """Logits after ``tokens``, which fill the context from its first slot on."""
    rows = np.arange(len(tokens))
    ids, visible = np.array(tokens), np.tri(len(tokens), dtype=bool)
    return np.array(context.forward(ids, rows, 0, visible, rows[-1:])[0])


def draft_row(context: DraftContext, tokens: list[int]) -> np.ndarray:
    """The last exit's log-probabilities after ``tokens``."""
    rows = np.arange(len(tokens))
    for segment in range(len(EXITS)):
        context.forward(segment, np.array(tokens), rows, 0, 0, np.tri(len(tokens), dtype=bool))
    return np.array(context.candidates(len(EXITS) - 1, len(tokens) - 1, len(tokens), np.zeros(300, np.float32))[1])


@pytest.mark.parametrize(("kind", "row"), [("target", target_row), ("draft", draft_row)])
def test_a_text_that_overflowed_leaves_nothing_behind(
    overflowing: dict[str, Bundle], either: Backend, kind: str, row: Callable[[Any, list[int]], np.ndarray]
) -> None:
    engine = getattr(either, kind)(overflowing[kind])
    used, fresh = engine.context(), engine.context()
    assert not np.isfinite(row(used, [3, 5, 9, POISON, POISON])).all()
    assert not np.isfinite(row(used, [3, 5, 9])).all()  # masked rows leak
    used.reset()
    expected = row(fresh, [3, 5, 9])
    assert np.isfinite(expected).all()
    assert np.array_equal(row(used, [3, 5, 9]), expected)


def test_a_reset_of_an_unused_context_does_nothing(overflowing: dict[str, Bundle], gpu: Any, backend: Any) -> None:
    context = backend.target(overflowing["target"]).context()
    before = gpu.sent
    context.reset()
    assert gpu.sent == before
    target_row(context, [3])
    before = gpu.sent
    context.reset()
    assert gpu.sent > before
