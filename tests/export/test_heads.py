"""Query heads that share a key head are folded into rows, so that a lone row gives the bits it gives beside others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export import build, target
from export.checkpoint import Checkpoint
from export.heads import folded_order, smallest_fold
from export.tensors import layer_tensor
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.spec import ModelSpec
from tests.conftest import llama_config, random_model, save_checkpoint

QUERY, OUTPUT = layer_tensor(0, "self_attn.q_proj"), layer_tensor(0, "self_attn.o_proj")
HEADS = {2: (4, 2), 3: (6, 2), 5: (5, 1)}
"""Query and key heads of a model, by its fold."""


def spec_of(kv_heads: int, shared: int, head_dim: int = 2) -> ModelSpec:
    heads = kv_heads * shared
    return ModelSpec(heads * head_dim, 1, heads, kv_heads, head_dim, 4, 10, 1e-6, 1e4, False)


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def attended(query: np.ndarray[Any, Any], cache: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Grouped attention as ONNX defines it: ``query`` ``[n, heads * D]`` over ``cache`` ``[S, kv_heads, D]``."""
    rows = query.reshape(len(query), heads, -1)
    found = np.empty_like(rows)
    for head in range(heads):
        keys = cache[:, head * cache.shape[1] // heads]
        found[:, head] = softmax(rows[:, head] @ keys.T) @ keys
    return found.reshape(query.shape)


@pytest.mark.parametrize(("shared", "fold"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 5), (6, 2), (9, 3)])
def test_the_fold_is_the_smallest_divisor_of_the_heads_that_share_a_key_head(shared: int, fold: int) -> None:
    assert smallest_fold(spec_of(2, shared)) == fold


@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 99))
def test_folded_attention_over_permuted_weights_equals_plain_attention(kv_heads: int, shared: int, seed: int) -> None:
    spec, rng = spec_of(kv_heads, shared), np.random.default_rng(seed)
    heads, fold, size = spec.num_attention_heads, smallest_fold(spec_of(kv_heads, shared)), spec.head_dim
    hidden, cache = rng.standard_normal((3, 7)), rng.standard_normal((5, kv_heads, size))
    query, output = rng.standard_normal((7, heads, size)), rng.standard_normal((heads, size, 7))
    plain = attended(hidden @ query.reshape(7, -1), cache, heads) @ output.reshape(-1, 7)
    order = list(folded_order(spec, fold))
    assert sorted(order) == list(range(heads))
    rows = (hidden @ query[:, order].reshape(7, -1)).reshape(3 * fold, -1)
    folded = attended(rows, cache, heads // fold).reshape(3, -1) @ output[order].reshape(-1, 7)
    np.testing.assert_allclose(folded, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", [1, 100, 700, 10**6])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_view_gives_heads_in_another_order_block_by_block(
    draft_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, block: int, transposed: bool
) -> None:
    monkeypatch.setattr("export.checkpoint.BLOCK_NUMBERS", block)
    checkpoint, heads = Checkpoint.open(draft_checkpoint), (2, 0, 1, 3)
    query = checkpoint.read(QUERY).reshape(4, 16, 64)[list(heads)].reshape(64, 64)
    output = checkpoint.read(OUTPUT).reshape(64, 4, 16)[:, list(heads)].reshape(64, 64)
    for name, expected in ((QUERY, query), (OUTPUT, output)):
        found = checkpoint.view(name, transposed, heads).read()
        np.testing.assert_array_equal(found, expected.T if transposed else expected)
    key = layer_tensor(0, "self_attn.k_proj")
    np.testing.assert_array_equal(checkpoint.view(key, heads=heads).read(), checkpoint.read(key))


@pytest.fixture(scope="module", params=HEADS)
def grouped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 3 layers whose query heads share key heads."""
    heads, kv_heads = HEADS[request.param]
    sizes = {"hidden_size": 60, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    model = random_model(llama_config(num_hidden_layers=3, **sizes), seed=7)
    return save_checkpoint(model, tmp_path_factory.mktemp(f"fold{request.param}") / "checkpoint")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_targets_row_has_the_same_bits_alone_and_beside_others(
    grouped: Path, tmp_path: Path, run_graph: Any, tokens: np.ndarray[Any, Any], precision: str
) -> None:
    out = tmp_path / "target.engine"
    target.main(["--checkpoint", str(grouped), "--out", str(out), "--no-parity", "--precision", precision])

    def logits(rows: int) -> np.ndarray[Any, Any]:
        run = run_graph(out, names.TARGET)
        run.causal(tokens[None, :11], 0, logit_rows=np.arange(1))
        found: np.ndarray[Any, Any] = run.causal(tokens[None, 11 : 11 + rows], 11, logit_rows=np.arange(rows))
        return found

    alone = logits(1)
    for rows in (2, 3, 9):
        np.testing.assert_array_equal(logits(rows)[:1], alone)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_drafts_row_has_the_same_bits_alone_and_beside_others(
    grouped: Path, tmp_path: Path, run_graph: Any, tokens: np.ndarray[Any, Any], precision: str
) -> None:
    out = tmp_path / "draft.engine"
    form = ["--exits", "1,3", "--no-parity", "--precision", precision]
    build.main(["--checkpoint", str(grouped), "--out", str(out), *form])
    noise = np.random.default_rng(0).gumbel(size=(1, 300)).astype(np.float32)

    def results(rows: int) -> list[np.ndarray[Any, Any]]:
        """Hidden states of both segments, candidates and their scores, of the first row after the prompt."""
        hidden, found = tokens[None], []
        for index in range(2):
            segment = run_graph(out, names.segment(index))
            prompt = segment.causal(hidden[:, :11], 0)
            after = segment.causal(hidden[:, 11 : 11 + rows], 11)
            found.append(after[:, :1])
            hidden = np.concatenate([prompt, after], axis=1)
        return found + [part[:1] for part in run_graph(out, names.HEAD).candidates(hidden[:, 11:], noise)]

    alone = results(1)
    for rows in (2, 3, 9):
        for found, expected in zip(results(rows), alone, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_tensorrts_layout_keeps_the_checkpoints_order(draft_checkpoint: Path, trt_draft_graphs: Path) -> None:
    import onnx

    bundle, checkpoint = Bundle.open(trt_draft_graphs), Checkpoint.open(draft_checkpoint)
    model = onnx.load(bundle.path(bundle.manifest.graphs["segment_0"]))
    (stored,) = (onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name == QUERY)
    np.testing.assert_array_equal(stored, checkpoint.read(QUERY).T.astype(np.float16))


def test_a_model_whose_heads_share_nothing_is_stored_as_it_was(draft_checkpoint: Path) -> None:
    spec = dataclasses.replace(Checkpoint.open(draft_checkpoint).spec, num_key_value_heads=4)
    assert folded_order(spec, smallest_fold(spec)) == (0, 1, 2, 3)
