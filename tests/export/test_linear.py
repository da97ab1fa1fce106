"""Row-wise int8: each row has a scale of its own, so that rows beside it change nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from s2d_trt import names
from s2d_trt.bundle import Bundle


def test_linear_layers_multiply_integers_and_the_rest_stays_float32(int8_target_bundle):
    bundle = Bundle.open(int8_target_bundle)
    assert (bundle.manifest.precision, bundle.manifest.weight_format) == ("int8", "int7")
    path = bundle.path(bundle.manifest.graphs[names.TARGET])
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    # Four products a layer, for layers that read the same rows are one, and the head.
    assert operators.count("MatMulInteger") == 4 * bundle.manifest.model.num_hidden_layers + 1
    assert "MatMul" not in operators
    assert {node.domain for node in graph.node} == {""}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {types[name] for name in types if name.endswith("_proj.weight")} == {onnx.TensorProto.INT8}
    assert types["model.embed_tokens.weight"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("together", [2, 3, 7, 16])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(int8_target_bundle, run_graph, tokens, together):
    def logits(rows):
        return run_graph(int8_target_bundle, names.TARGET).causal(tokens[None, :rows], 0, logit_rows=np.arange(rows))

    np.testing.assert_array_equal(logits(together)[:2], logits(2))


def test_a_row_a_thousand_times_as_large_does_not_drown_its_neighbours(int8_draft_bundle, run_graph):
    rows = np.random.default_rng(0).standard_normal((1, 2, 64)).astype(np.float32)
    noise = np.zeros((1, 300), np.float32)
    beside_a_large_one = rows * np.array([1.0, 1000.0], np.float32)[:, None]
    quiet, loud = (
        run_graph(int8_draft_bundle, names.segment(1)).causal(hidden, 0)[:, :1] for hidden in (rows, beside_a_large_one)
    )
    np.testing.assert_array_equal(quiet, loud)
    head = run_graph(int8_draft_bundle, names.HEAD)
    assert (head.candidates(quiet, noise)[0] == head.candidates(loud, noise)[0]).all()


def test_rows_of_zeros_give_numbers(int8_draft_bundle, run_graph):
    hidden = run_graph(int8_draft_bundle, names.segment(1)).causal(np.zeros((1, 3, 64), np.float32), 0)
    assert np.isfinite(hidden).all()


def test_int8_follows_float32(int8_target_bundle, target_bundle, run_graph, tokens):
    narrow, wide = (
        run_graph(bundle, names.TARGET).causal(tokens[None], 0, logit_rows=np.arange(len(tokens)))
        for bundle in (int8_target_bundle, target_bundle)
    )
    difference = np.abs(narrow - wide).max() / np.abs(wide).max()
    assert 0 < difference < 0.1
    assert (narrow.argmax(axis=-1) == wide.argmax(axis=-1)).mean() > 0.8


def test_two_products_of_a_row_and_a_weight_fit_16_bits(int8_target_bundle):
    # Kernels of x86-64 without VNNI add them so; what does not fit is cut off there.
    bundle = Bundle.open(int8_target_bundle)
    graph = onnx.load(bundle.path(bundle.manifest.graphs[names.TARGET])).graph
    weights = [
        onnx.numpy_helper.to_array(t, bundle.directory)
        for t in graph.initializer
        if t.data_type == onnx.TensorProto.INT8
    ]
    assert weights
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) * 2 * 255 < 2**15
