"""The ONNX graphs of a draft and a target, in opset 24 standard operators."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from export.layout import CACHE, CacheLayout
from export.nodes import Graph
from export.weights import EMBEDDING, FINAL_NORM, WeightFile, head_tensor, layer_tensor
from s2d_trt import names
from s2d_trt.spec import ModelSpec

MAX_HEAD_TOP_K = 16
QUERY, ROWS = "query_length", "logit_rows_length"


def head_top_k(spec: ModelSpec) -> int:
    """How many candidates the draft's head gives."""
    return min(MAX_HEAD_TOP_K, spec.vocab_size)


@dataclass(frozen=True, slots=True)
class GraphBuilder:
    """Builds the graphs of one model over one weight file, in one cache layout."""

    spec: ModelSpec
    weights: WeightFile
    weights_location: str
    layout: CacheLayout

    def segment(self, index: int, first: int, last: int) -> onnx.ModelProto:
        """Layers ``[first, last)`` of a draft; segment 0 begins with the embedding."""
        graph = self._graph(names.segment(index))
        hidden = self._embedded(graph) if index == 0 else self._hidden_input(graph)
        graph.output(names.OUTPUT_HIDDEN_STATES, TensorProto.FLOAT, [1, QUERY, self.spec.hidden_size])
        self._layers(graph, hidden, first, last, names.OUTPUT_HIDDEN_STATES)
        return graph.model()

    def head(self) -> onnx.ModelProto:
        """Final norm, logits plus noise, and the best candidates; every exit uses it."""
        graph, vocab, k = self._graph(names.HEAD), self.spec.vocab_size, head_top_k(self.spec)
        hidden = self._hidden_input(graph)
        noise = graph.input(names.NOISE, TensorProto.FLOAT, [1, vocab])
        logprobs = graph.op("LogSoftmax", self._logits(graph, hidden, noise), axis=-1)
        tokens = graph.output(names.TOP_TOKENS, TensorProto.INT64, [QUERY, k])
        best = graph.output(names.TOP_LOGPROBS, TensorProto.FLOAT, [QUERY, k])
        graph.ops("TopK", logprobs, graph.constant("top_k", [k]), results=[best, tokens], axis=-1)
        return graph.model()

    def target(self) -> onnx.ModelProto:
        """The whole model; only the rows named by ``logit_rows`` meet the vocabulary."""
        graph = self._graph(names.TARGET)
        hidden = self._embedded(graph)
        rows = graph.input(names.LOGIT_ROWS, TensorProto.INT64, [ROWS])
        logits = graph.output(names.LOGITS, TensorProto.FLOAT, [ROWS, self.spec.vocab_size])
        last = self._layers(graph, hidden, 0, self.spec.num_hidden_layers, None)
        self._logits(graph, graph.op("Gather", last, rows, axis=1), result=logits)
        return graph.model()

    def _graph(self, name: str) -> Graph:
        return Graph(name, self.weights, self.weights_location)

    def _hidden_input(self, graph: Graph) -> str:
        return graph.input(names.HIDDEN_STATES, TensorProto.FLOAT, [1, QUERY, self.spec.hidden_size])

    def _embedded(self, graph: Graph) -> str:
        ids = graph.input(names.INPUT_IDS, TensorProto.INT64, [1, QUERY])
        return graph.op("Gather", graph.weight(EMBEDDING), ids, axis=0)

    def _layers(self, graph: Graph, hidden: str, first: int, last: int, result: str | None) -> str:
        """Layers ``[first, last)`` with the inputs they share; the last one's output is named ``result``."""
        graph.input(names.POSITION_IDS, TensorProto.INT64, [1, QUERY])
        graph.input(names.ATTENTION_MASK, TensorProto.BOOL, [QUERY, CACHE])
        graph.input(names.WRITE_INDEX, TensorProto.INT64, [1])
        for layer in range(first, last):
            hidden = self._layer(graph, hidden, layer, result if layer == last - 1 else None)
        return hidden

    def _layer(self, graph: Graph, hidden: str, layer: int, result: str | None) -> str:
        """Pre-norm attention and gated feed-forward, each with its residual."""

        def linear(rows: str, part: str) -> str:
            return graph.op("MatMul", rows, graph.weight(layer_tensor(layer, part)))

        rows = self._norm(graph, hidden, layer_tensor(layer, "input_layernorm"))
        query, key, value = (linear(rows, f"self_attn.{part}_proj") for part in "qkv")
        attended = self.layout.attention(graph, self.spec, layer, query, key, value)
        hidden = graph.op("Add", hidden, linear(attended, "self_attn.o_proj"))
        rows = self._norm(graph, hidden, layer_tensor(layer, "post_attention_layernorm"))
        gate = linear(rows, "mlp.gate_proj")
        gated = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        widened = graph.op("Mul", gated, linear(rows, "mlp.up_proj"))
        return graph.op("Add", hidden, linear(widened, "mlp.down_proj"), result=result)

    def _norm(self, graph: Graph, rows: str, weight: str) -> str:
        return graph.op("RMSNormalization", rows, graph.weight(weight), axis=-1, epsilon=self.spec.rms_norm_eps)

    def _logits(self, graph: Graph, rows: str, *added: str, result: str | None = None) -> str:
        """Final norm and head: ``[1, n, H]`` -> ``[n, V]``, plus ``added`` ``[1, V]``.

        A Gemm reads the head as ``[V, H]``, so tied weights need neither a second copy nor a Transpose.
        """
        flat = graph.constant("flat_shape", [-1, self.spec.hidden_size])
        rows = graph.op("Reshape", self._norm(graph, rows, FINAL_NORM), flat)
        return graph.op("Gemm", rows, graph.weight(head_tensor(self.spec)), *added, transB=1, result=result)
