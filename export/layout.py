"""The shape of a KV cache, and the attention nodes that read and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from export.nodes import Dim, Graph
from export.rotary import COS_CACHE, SIN_CACHE
from export.weight_spec import WeightSpec
from s2d_trt import names

CACHE = "cache_length"
MASKED = -1e4
"""Added to a score that may not be read: far below any score, and within the range of float16."""


class CacheLayout(Protocol):
    """What differs between runtimes: the cache's shape and the nodes around it."""

    @property
    def name(self) -> str:
        """The name that the manifest records."""
        ...

    @property
    def slots(self) -> Dim:
        """Length S of the caches and of the mask's rows."""
        ...

    @property
    def joins_layers(self) -> bool:
        """Whether layers that read the same rows are one product, which is then split."""
        ...

    @property
    def folds_heads(self) -> bool:
        """Whether query heads that share a key head become rows of one head (see ``export.heads``)."""
        ...

    def mask(self, graph: Graph, weights: WeightSpec, readable: str) -> str:
        """What attention takes for the bool ``readable`` ``[q, S]``; made once and shared by all layers."""
        ...

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, mask: str
    ) -> str:
        """Rotate query and key, write key and value into the cache, attend to all of it.

        ``query`` is ``[1, q, num_attention_heads * head_dim]``, ``key`` and ``value`` are ``[1, q, kv_width]``;
        so is the result, like ``query``. Declares the layer's past inputs and present outputs.
        """
        ...


@dataclass(frozen=True, slots=True)
class BSH:
    """``[1, S, kv_width]``: the first slots of a cache are contiguous, so a call can bind only those in use."""

    name: ClassVar[str] = "BSH"
    slots: ClassVar[Dim] = CACHE
    joins_layers: ClassVar[bool] = True
    folds_heads: ClassVar[bool] = True

    def mask(self, graph: Graph, weights: WeightSpec, readable: str) -> str:
        """``readable``, each row repeated for the heads that are folded into rows: ``[q * fold, S]``."""
        if weights.fold == 1:
            return readable
        rows = graph.op("Unsqueeze", readable, graph.constant("row_axis", [1]))
        repeated = graph.op("Expand", rows, graph.constant("folded_rows", [1, weights.fold, 1]))
        return graph.op("Flatten", repeated, axis=2)

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, mask: str
    ) -> str:
        """Attention over the used prefix of the cache, with folded heads where query heads share key heads."""
        spec, fold = weights.model, weights.fold
        shape, heads = [1, self.slots, spec.kv_width], spec.num_attention_heads // fold

        def reshaped(rows: str, heads: int) -> str:
            width = heads * spec.head_dim
            return graph.op("Reshape", rows, graph.constant(f"heads_{heads}", [1, -1, width])) if fold > 1 else rows

        attended = graph.op(
            "Attention",
            reshaped(self._rotate(graph, query, spec.num_attention_heads), heads),
            _update(graph, layer, "key", self._rotate(graph, key, spec.num_key_value_heads), shape, axis=1),
            _update(graph, layer, "value", value, shape, axis=1),
            mask,
            q_num_heads=heads,
            kv_num_heads=spec.num_key_value_heads,
            scale=spec.head_dim**-0.5,
        )
        return reshaped(attended, spec.num_attention_heads)

    def _rotate(self, graph: Graph, rows: str, heads: int) -> str:
        caches = graph.weight(COS_CACHE), graph.weight(SIN_CACHE)
        return graph.op("RotaryEmbedding", rows, *caches, names.POSITION_IDS, num_heads=heads, interleaved=0)


@dataclass(frozen=True, slots=True)
class BHSD:
    """``[1, num_key_value_heads, slots, head_dim]``: the form that TensorRT updates in place, its length fixed.

    TensorRT joins layers itself. Given joined layers, it orders their parts at random, and two plans differ.
    """

    slots: int
    name: ClassVar[str] = "BHSD"
    joins_layers: ClassVar[bool] = False
    folds_heads: ClassVar[bool] = False

    def mask(self, graph: Graph, weights: WeightSpec, readable: str) -> str:
        """An additive mask in the scores' type, as TensorRT takes it; it builds only one of them."""
        return graph.op("Where", readable, graph.scalar("read", 0.0), graph.scalar("masked", MASKED))

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, mask: str
    ) -> str:
        """Attention over the whole cache, heads before positions."""
        spec, kv_heads = weights.model, weights.model.num_key_value_heads
        shape = [1, kv_heads, self.slots, spec.head_dim]
        caches = graph.weight(COS_CACHE), graph.weight(SIN_CACHE)

        def heads_first(rows: str, heads: int) -> str:
            split = graph.op("Reshape", rows, graph.constant(f"split_{heads}", [1, -1, heads, spec.head_dim]))
            return graph.op("Transpose", split, perm=[0, 2, 1, 3])

        def rotated(rows: str, heads: int) -> str:
            return graph.op("RotaryEmbedding", heads_first(rows, heads), *caches, names.POSITION_IDS, interleaved=0)

        attended = graph.op(
            "Attention",
            rotated(query, spec.num_attention_heads),
            _update(graph, layer, "key", rotated(key, kv_heads), shape, axis=2),
            _update(graph, layer, "value", heads_first(value, kv_heads), shape, axis=2),
            mask,
            scale=spec.head_dim**-0.5,
        )
        width = spec.num_attention_heads * spec.head_dim
        joined = graph.constant("join", [1, -1, width])
        return graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), joined)


def _update(graph: Graph, layer: int, part: str, rows: str, shape: Sequence[Dim], axis: int) -> str:
    """Write ``rows`` into a layer's cache, from graph input to graph output."""
    past = graph.input(names.past(layer, part), graph.precision.onnx_type, shape)
    present = graph.output(names.present(layer, part), graph.precision.onnx_type, shape)
    return graph.op("TensorScatter", past, rows, names.WRITE_INDEX, axis=axis, mode="linear", result=present)
