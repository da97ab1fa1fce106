"""The ONNX graphs of a draft and a target, in opset 24 standard operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from export.lanes import QUERY
from export.layout import CacheLayout
from export.linear import linear
from export.nodes import Graph
from export.precision import FP32, Precision
from export.tensors import EMBEDDING, FINAL_NORM, HEAD_TOKENS, JOINED, has_bias, layer_tensor, output_width
from export.weights import WeightFile
from s2d_trt import names
from s2d_trt.spec import ModelSpec

MAX_HEAD_TOP_K = 16
ROWS = "logit_rows_length"


def head_top_k(rows: int) -> int:
    """How many candidates a head of so many rows gives."""
    return min(MAX_HEAD_TOP_K, rows)


@dataclass(frozen=True, slots=True)
class GraphBuilder:
    """Builds the graphs of one model over one weight file, in one cache layout and precision."""

    weights: WeightFile
    weights_location: str
    layout: CacheLayout
    precision: Precision

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""
        return self.weights.spec.model

    def segment(self, index: int, first: int, last: int) -> onnx.ModelProto:
        """Layers ``[first, last)`` of a draft; segment 0 begins with the embedding."""
        graph = self._graph(names.in_lanes(names.segment(index), self.layout.lanes.count))
        hidden = self._embedded(graph) if index == 0 else self._hidden_input(graph)
        graph.output(names.OUTPUT_HIDDEN_STATES, self.precision.onnx_type, [1, QUERY, self.spec.hidden_size])
        self._layers(graph, hidden, first, last, names.OUTPUT_HIDDEN_STATES)
        return graph.model()

    def head(self) -> onnx.ModelProto:
        """Final norm, logits plus noise, and the best candidates; every exit uses it."""
        graph, vocab, k = self._graph(names.HEAD), self.spec.vocab_size, head_top_k(self.weights.head_rows)
        hidden = self._hidden_input(graph)
        noise = graph.input(names.NOISE, TensorProto.FLOAT, [self.layout.noise_rows, vocab])
        if self.weights.lacks_tokens:
            noise = graph.op("Gather", noise, graph.stored(HEAD_TOKENS), axis=1)
        # ONNX Runtime makes a Sum of a Gemm's result the Gemm's own third input.
        logprobs = graph.op("LogSoftmax", graph.op("Sum", self._logits(graph, hidden), noise), axis=-1)
        tokens = graph.output(names.TOP_TOKENS, TensorProto.INT64, [QUERY, k])
        best = graph.output(names.TOP_LOGPROBS, TensorProto.FLOAT, [QUERY, k])
        chosen = graph.ops("TopK", logprobs, graph.constant("top_k", [k]), results=[best, "chosen"], axis=-1)[1]
        # With both results of TopK as outputs, TensorRT orders them at random, and two plans differ.
        if self.weights.lacks_tokens:
            graph.op("Gather", graph.stored(HEAD_TOKENS), chosen, result=tokens)
        else:
            graph.op("Identity", chosen, result=tokens)
        return graph.model()

    def target(self) -> onnx.ModelProto:
        """The whole model; only the rows named by ``logit_rows`` meet the vocabulary."""
        graph = self._graph(names.in_lanes(names.TARGET, self.layout.lanes.count))
        hidden = self._embedded(graph)
        rows = graph.input(names.LOGIT_ROWS, TensorProto.INT64, [ROWS])
        logits = graph.output(names.LOGITS, TensorProto.FLOAT, [ROWS, self.spec.vocab_size])
        last = self._layers(graph, hidden, 0, self.spec.num_hidden_layers, None)
        self._logits(graph, graph.op("Gather", last, rows, axis=1), logits)
        return graph.model()

    def _graph(self, name: str) -> Graph:
        return Graph(name, self.weights, self.weights_location, self.precision)

    def _hidden_input(self, graph: Graph) -> str:
        return graph.input(names.HIDDEN_STATES, self.precision.onnx_type, [1, QUERY, self.spec.hidden_size])

    def _embedded(self, graph: Graph) -> str:
        ids = graph.input(names.INPUT_IDS, TensorProto.INT64, [1, QUERY])
        return graph.op("Gather", graph.weight(EMBEDDING), ids, axis=0)

    def _layers(self, graph: Graph, hidden: str, first: int, last: int, result: str | None) -> str:
        """Layers ``[first, last)`` with the inputs they share; the last one's output is named ``result``."""
        masks = self.layout.inputs(graph, self.weights.spec)
        for layer in range(first, last):
            hidden = self._layer(graph, hidden, layer, masks, result if layer == last - 1 else None)
        return hidden

    def _layer(self, graph: Graph, hidden: str, layer: int, masks: Sequence[str], result: str | None) -> str:
        """Pre-norm attention and gated feed-forward, each with its residual."""
        rows = self._norm(graph, hidden, layer_tensor(layer, "input_layernorm"))
        query, key, value = self._siblings(graph, rows, layer, "self_attn", "qkv_proj", self.layout.gathered)
        if self.spec.qk_norm:
            query = self._normed_heads(graph, query, layer_tensor(layer, "self_attn.q_norm"))
            key = self._normed_heads(graph, key, layer_tensor(layer, "self_attn.k_norm"))
        attended = self.layout.attention(graph, self.weights.spec, layer, query, key, value, masks)
        hidden = graph.op("Add", hidden, self._linear(graph, attended, layer, "self_attn.o_proj"))
        rows = self._norm(graph, hidden, layer_tensor(layer, "post_attention_layernorm"))
        gate, up = self._siblings(graph, rows, layer, "mlp", "gate_up_proj")
        gated = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        narrowed = self._linear(graph, graph.op("Mul", gated, up), layer, "mlp.down_proj")
        return graph.op("Add", hidden, narrowed, result=result)

    def _siblings(
        self,
        graph: Graph,
        rows: str,
        layer: int,
        owner: str,
        joined: str,
        then: Callable[[Graph, str], str] = lambda _, product: product,
    ) -> Sequence[str]:
        """Outputs of the layers that read the same ``rows``: one product where the weight file joins them. Each product
        goes through ``then``.
        """
        parts = [f"{owner}.{part}" for part in JOINED[joined]]
        whole = f"{owner}.{joined}"
        if layer_tensor(layer, whole) not in self.weights.tensors:
            return [then(graph, self._linear(graph, rows, layer, part)) for part in parts]
        product = then(graph, self._linear(graph, rows, layer, whole))
        return graph.split(product, [output_width(self.spec, part) for part in parts])

    def _linear(self, graph: Graph, rows: str, layer: int, part: str) -> str:
        product = linear(graph, rows, layer_tensor(layer, part))
        if not has_bias(self.spec, part):
            return product
        return graph.op("Add", product, graph.weight(layer_tensor(layer, part, "bias")))

    def _normed_heads(self, graph: Graph, rows: str, weight: str) -> str:
        """Norm each head of ``[1, q, heads * head_dim]`` by itself."""
        heads = graph.op("Reshape", rows, graph.constant("each_head", [0, 0, -1, self.spec.head_dim]))
        flat = graph.constant("all_heads", [0, 0, -1])
        return graph.op("Reshape", self._norm(graph, heads, weight), flat)

    def _norm(self, graph: Graph, rows: str, weight: str) -> str:
        return graph.op("RMSNormalization", rows, graph.weight(weight), axis=-1, epsilon=self.spec.rms_norm_eps)

    def _logits(self, graph: Graph, rows: str, result: str | None = None) -> str:
        """Final norm and head: ``[1, n, H]`` -> float32 ``[n, V]``.

        A Gemm reads the head as ``[V, H]``, so tied weights need neither a second copy nor a Transpose.
        """
        flat = graph.constant("flat_shape", [-1, self.spec.hidden_size])
        rows = graph.op("Reshape", self._norm(graph, rows, FINAL_NORM), flat)
        if self.precision.integer_rows:
            return linear(graph, rows, self.weights.head, row_axis=0, result=result)
        turn = 0 if self.weights.head_is_transposed else 1
        if self.precision is FP32:
            return graph.op("Gemm", rows, graph.weight(self.weights.head), transB=turn, result=result)
        logits = graph.op("Gemm", rows, graph.weight(self.weights.head), transB=turn)
        return graph.op("Cast", logits, to=TensorProto.FLOAT, result=result)
