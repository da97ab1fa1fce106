"""The cache layout as an exchangeable part."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from export.graph import GraphBuilder
from export.layout import BSH
from export.nodes import Graph
from export.precision import FP32
from export.weights import write_weights
from s2d_trt import names


class Counting:
    """A layout that notes where attention is asked for."""

    name = "counting"

    slots = "cache_length"

    def __init__(self) -> None:
        self.layers: list[int] = []

    def mask(self, graph, readable):
        return readable

    def attention(self, graph: Graph, spec, layer, query, key, value, mask):
        self.layers.append(layer)
        return BSH().attention(graph, spec, layer, query, key, value, mask)


@pytest.fixture
def builder(draft_checkpoint, tmp_path):
    from export.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(draft_checkpoint)
    weights = write_weights(checkpoint, checkpoint.spec, 64, tmp_path / "weights.bin")
    return GraphBuilder(checkpoint.spec, weights, "weights.bin", Counting(), FP32)


def test_a_layout_is_asked_once_for_each_layer_and_decides_all_that_touches_the_cache(builder):
    builder.segment(1, 2, 4)
    assert builder.layout.layers == [2, 3]


def test_a_layer_costs_nineteen_nodes(builder):
    one, two = (len(builder.segment(1, 0, last).graph.node) for last in (1, 2))
    assert two - one == 19


def test_attention_is_scaled_by_the_head_size_and_knows_its_heads(builder):
    model = builder.segment(1, 2, 3)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in attention.attribute}
    assert (attributes["q_num_heads"], attributes["kv_num_heads"]) == (4, 2)
    assert np.isclose(attributes["scale"], 16**-0.5)
    assert attention.input[3] == names.ATTENTION_MASK
