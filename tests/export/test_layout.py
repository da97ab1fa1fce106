"""The cache layout as an exchangeable part."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from export import build, target
from export.graph import GraphBuilder
from export.lanes import ONE_LANE
from export.layout import BSH
from export.nodes import Graph
from export.precision import FP32
from export.weight_spec import WeightSpec
from export.weights import write_weights
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.manifest import SCRATCH_ROWS


class Counting:
    """A layout that notes where attention is asked for."""

    name, lanes = "counting", ONE_LANE

    def __init__(self) -> None:
        self.layers: list[int] = []

    def inputs(self, graph, weights):
        return BSH().inputs(graph, weights)

    def gathered(self, graph, rows):
        return BSH().gathered(graph, rows)

    def attention(self, graph: Graph, weights, layer, query, key, value, masks):
        self.layers.append(layer)
        return BSH().attention(graph, weights, layer, query, key, value, masks)


@pytest.fixture
def builder(draft_checkpoint, tmp_path):
    from export.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(draft_checkpoint)
    weights = write_weights(checkpoint, WeightSpec(checkpoint.spec, 64), tmp_path / "weights.bin")
    return GraphBuilder(weights, "weights.bin", Counting(), FP32)


def test_a_layout_is_asked_once_for_each_layer_and_decides_all_that_touches_the_cache(builder):
    builder.segment(1, 2, 4)
    assert builder.layout.layers == [2, 3]


def test_a_layer_costs_twenty_nodes(builder):
    one, two = (len(builder.segment(1, 0, last).graph.node) for last in (1, 2))
    assert two - one == 20


def test_attention_is_scaled_by_the_head_size_and_takes_heads_that_share_a_key_head_as_rows(builder):
    model = builder.segment(1, 2, 3)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in attention.attribute}
    assert (attributes["q_num_heads"], attributes["kv_num_heads"]) == (2, 2)
    assert np.isclose(attributes["scale"], 16**-0.5)


def test_the_mask_of_folded_heads_is_made_once(builder):
    nodes = builder.segment(1, 2, 4).graph.node
    (mask,) = (node for node in nodes if node.op_type == "Flatten")
    assert {node.input[3] for node in nodes if node.op_type == "Attention"} == {mask.output[0]}


@pytest.fixture(scope="module")
def pairs(draft_bundle, target_bundle, draft_checkpoint, target_checkpoint, tmp_path_factory):
    """The draft's and the target's bundle in float32, each in both layouts."""
    root = tmp_path_factory.mktemp("layouts")
    form = ["--backend", "tensorrt", "--precision", "fp32", "--no-compile", "--no-parity"]
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(root / "draft.engine"), *form])
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(root / "target.engine"), *form])
    return (draft_bundle, root / "draft.engine"), (target_bundle, root / "target.engine")


def test_both_layouts_compute_the_same_in_every_kind_of_graph(pairs, run_graph, tokens):
    (draft, draft_by_heads), (whole, whole_by_heads) = pairs
    hidden, rows, noise = tokens[None], np.arange(4), np.zeros((1, 300), np.float32)
    for index in range(3):
        first, second = (run_graph(bundle, names.segment(index)) for bundle in (draft, draft_by_heads))
        expected = np.concatenate([first.causal(hidden[:, :9], 0), first.causal(hidden[:, 9:], 9)], axis=1)
        found = np.concatenate([second.causal(hidden[:, :9], 0), second.causal(hidden[:, 9:], 9)], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        hidden = expected
    heads = [run_graph(bundle, names.HEAD).candidates(hidden, noise) for bundle in (draft, draft_by_heads)]
    np.testing.assert_array_equal(heads[0][0], heads[1][0])
    first, second = (run_graph(bundle, names.TARGET) for bundle in (whole, whole_by_heads))
    expected = first.causal(tokens[None], 0, logit_rows=rows)
    np.testing.assert_allclose(second.causal(tokens[None], 0, logit_rows=rows), expected, rtol=1e-4, atol=1e-5)


def test_both_layouts_hold_the_same_rows_in_their_caches(pairs, run_graph, tokens):
    runs = [run_graph(bundle, names.TARGET) for bundle in pairs[1]]
    for run in runs:
        run.causal(tokens[None], 0, logit_rows=np.arange(1))
    for name, rows in runs[0].caches.items():
        by_heads = runs[1].caches[name][0].transpose(1, 0, 2)[:20].reshape(20, -1)
        np.testing.assert_allclose(by_heads, rows[0, :20], rtol=1e-4, atol=1e-5)


def test_bhsd_has_the_inputs_and_outputs_of_the_contract(trt_draft_graphs, run_graph):
    manifest = Bundle.open(trt_draft_graphs).manifest
    assert manifest.cache.slots >= manifest.cache.max_length + SCRATCH_ROWS
    session = run_graph(trt_draft_graphs, names.segment(1)).session
    types = {value.name: (value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())}
    slots, cache = manifest.cache.slots, ("tensor(float16)", ["lanes_length", 2, manifest.cache.slots, 16])
    layers = [(layer, part) for layer in (2, 3) for part in ("key", "value")]
    caches = [name(*layer) for name in (names.past, names.present) for layer in layers]
    rows = ("tensor(float16)", [1, "query_length", 64])
    lanes = ("tensor(int64)", ["lanes_length", "lane_rows_length"])
    assert types == {
        names.HIDDEN_STATES: rows,
        names.OUTPUT_HIDDEN_STATES: rows,
        names.POSITION_IDS: lanes,
        names.ATTENTION_MASK: ("tensor(bool)", ["lanes_length", 1, "lane_rows_length", slots]),
        names.WRITE_INDEX: ("tensor(int64)", ["lanes_length"]),
        names.ATTENTION_ROWS: lanes,
        names.PACKED_ROWS: ("tensor(int64)", ["query_length"]),
        **dict.fromkeys(caches, cache),
    }
    head = run_graph(trt_draft_graphs, names.HEAD).session
    assert {value.name: (value.type, value.shape) for value in head.get_inputs()} == {
        names.HIDDEN_STATES: rows,
        names.NOISE: ("tensor(float)", [8, 300]),
        names.NOISE_ROWS: ("tensor(int64)", ["query_length"]),
    }
    assert {value.name: value.type for value in head.get_outputs()} == {
        names.TOP_TOKENS: "tensor(int64)",
        names.TOP_LOGPROBS: "tensor(float)",
    }


def test_bhsd_for_one_text_gathers_no_rows(draft_checkpoint, tmp_path, run_graph):
    form = ["--backend", "tensorrt", "--no-compile", "--no-parity", "--lanes", "1"]
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine"), *form])
    manifest = Bundle.open(tmp_path / "draft.engine").manifest
    assert manifest.lanes == (1,)
    session = run_graph(tmp_path / "draft.engine", names.segment(1)).session
    shapes = {value.name: value.shape for value in session.get_inputs() if not value.name.startswith(names.PAST)}
    assert shapes == {
        names.HIDDEN_STATES: [1, "query_length", 64],
        names.POSITION_IDS: [1, "query_length"],
        names.ATTENTION_MASK: ["query_length", manifest.cache.slots],
        names.WRITE_INDEX: [1],
    }
    graph = onnx.load(tmp_path / "draft.engine" / manifest.graphs["segment_1"], load_external_data=False).graph
    assert "Gather" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize(("lanes", "expected"), [("1", (1,)), ("6", (1, 2, 4, 6)), ("8", (1, 2, 4, 8))])
def test_one_graph_for_tensorrt_serves_any_number_of_texts_up_to_the_one_asked_for(
    draft_checkpoint, tmp_path, lanes, expected
):
    form = ["--backend", "tensorrt", "--no-compile", "--no-parity", "--lanes", lanes]
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine"), *form])
    manifest = Bundle.open(tmp_path / "draft.engine").manifest
    assert manifest.lanes == expected
    assert set(manifest.graphs) == {"segment_0", "segment_1", "segment_2", "head"}


def test_bhsd_makes_its_mask_once_and_writes_caches_from_graph_input_to_graph_output(trt_draft_graphs):
    bundle = Bundle.open(trt_draft_graphs)
    graph = onnx.load(bundle.path(bundle.manifest.graphs["segment_0"]), load_external_data=False).graph
    (mask,) = (node for node in graph.node if node.op_type == "Where")
    assert {node.input[3] for node in graph.node if node.op_type == "Attention"} == {mask.output[0]}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type == "TensorScatter":
            assert node.output[0] == node.input[0].replace("past_key_values", "present")
            assert node.output[0] in outputs


def test_rows_that_may_read_nothing_stay_finite_in_bhsd(trt_draft_graphs, run_graph, tokens):
    run = run_graph(trt_draft_graphs, "segment_0")
    mask = np.arange(run.slots) <= np.arange(20)[:, None]
    mask[12:] = False
    assert np.isfinite(run.rows(tokens[None], 0, mask, np.arange(20))).all()
