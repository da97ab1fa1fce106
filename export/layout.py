"""How a KV cache lies in memory, and the attention that reads and writes it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from onnx import TensorProto

from export.nodes import Dim, Graph
from export.weights import COS_CACHE, SIN_CACHE
from s2d_trt import names
from s2d_trt.spec import ModelSpec

CACHE = "cache_length"


class CacheLayout(Protocol):
    """What differs between runtimes: the cache's shape and the nodes around it."""

    @property
    def name(self) -> str:
        """As the manifest states it."""
        ...

    def attention(self, graph: Graph, spec: ModelSpec, layer: int, query: str, key: str, value: str) -> str:
        """Rotate query and key, write key and value into the cache, attend to all of it.

        ``query`` is ``[1, q, num_attention_heads * head_dim]``, ``key`` and ``value`` are ``[1, q, kv_width]``;
        so is the result, like ``query``. Declares the layer's past inputs and present outputs.
        """
        ...


@dataclass(frozen=True, slots=True)
class BSH:
    """``[1, S, kv_width]``: the first rows of the cache are contiguous, so a call can bind just those in use."""

    name: str = "BSH"

    def attention(self, graph: Graph, spec: ModelSpec, layer: int, query: str, key: str, value: str) -> str:
        """See ``CacheLayout``."""
        rotated_query = self._rotate(graph, query, spec.num_attention_heads)
        rotated_key = self._rotate(graph, key, spec.num_key_value_heads)
        return graph.op(
            "Attention",
            rotated_query,
            self._update(graph, spec, layer, "key", rotated_key),
            self._update(graph, spec, layer, "value", value),
            names.ATTENTION_MASK,
            q_num_heads=spec.num_attention_heads,
            kv_num_heads=spec.num_key_value_heads,
            scale=spec.head_dim**-0.5,
        )

    def _rotate(self, graph: Graph, rows: str, heads: int) -> str:
        caches = graph.weight(COS_CACHE), graph.weight(SIN_CACHE)
        return graph.op("RotaryEmbedding", rows, *caches, names.POSITION_IDS, num_heads=heads, interleaved=0)

    def _update(self, graph: Graph, spec: ModelSpec, layer: int, part: str, rows: str) -> str:
        shape: list[Dim] = [1, CACHE, spec.kv_width]
        past = graph.input(names.past(layer, part), TensorProto.FLOAT, shape)
        present = graph.output(names.present(layer, part), TensorProto.FLOAT, shape)
        return graph.op("TensorScatter", past, rows, names.WRITE_INDEX, axis=1, mode="linear", result=present)
