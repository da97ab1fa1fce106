"""The shape of a KV cache, and the attention nodes that read and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from onnx import TensorProto

from export.lanes import ONE_LANE, QUERY, Lanes
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
    def lanes(self) -> Lanes:
        """How many texts a call takes."""
        ...

    @property
    def joins_layers(self) -> bool:
        """Whether layers that read the same rows are one product, which is then split."""
        ...

    @property
    def folds_heads(self) -> bool:
        """Whether query heads that share a key head become rows of one head (see ``export.heads``)."""
        ...

    @property
    def noise_rows(self) -> Dim:
        """Rows of the head's noise: one for all rows, or one for each."""
        ...

    def inputs(self, graph: Graph, weights: WeightSpec) -> Sequence[str]:
        """Declare the inputs that all layers share; the masks that attention takes, one for each lane."""
        ...

    def gathered(self, graph: Graph, rows: str) -> str:
        """The rows that attention computes, ``[1, m, width]``, of packed ``rows`` ``[1, q, width]``."""
        ...

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, masks: Sequence[str]
    ) -> str:
        """Rotate query and key, write key and value into the cache, attend to all of it.

        ``query`` is ``[1, m, num_attention_heads * head_dim]``, ``key`` and ``value`` are ``[1, m, kv_width]``. The
        result ``[1, q, num_attention_heads * head_dim]`` is packed. Declares the layer's past inputs and present
        outputs.
        """
        ...


@dataclass(frozen=True, slots=True)
class BSH:
    """``[1, S, kv_width]``: the first slots of a cache are contiguous, so a call can bind only those in use.

    Each of the ``lanes`` has caches, a mask and attention nodes of its own, so a row's bits do not depend on other
    lanes, and the cost of a lane follows its own length.
    """

    lanes: Lanes = ONE_LANE
    name: ClassVar[str] = "BSH"
    noise_rows: ClassVar[Dim] = "noise_length"
    joins_layers: ClassVar[bool] = True
    folds_heads: ClassVar[bool] = True

    def slots(self, lane: int) -> Dim:
        """Length of a lane's caches."""
        return CACHE if self.lanes.count == 1 else f"{CACHE}.{lane}"

    def inputs(self, graph: Graph, weights: WeightSpec) -> Sequence[str]:
        """A mask for each lane, each row repeated for the heads that are folded into rows: ``[rows * fold, S]``."""
        self.lanes.declare(graph)
        return [self._mask(graph, weights.fold, lane) for lane in range(self.lanes.count)]

    def _mask(self, graph: Graph, fold: int, lane: int) -> str:
        shape = [self.lanes.length(lane), self.slots(lane)]
        readable = graph.input(self.lanes.mask(lane), TensorProto.BOOL, shape)
        if fold == 1:
            return readable
        rows = graph.op("Unsqueeze", readable, graph.constant("row_axis", [1]))
        repeated = graph.op("Expand", rows, graph.constant("folded_rows", [1, fold, 1]))
        return graph.op("Flatten", repeated, axis=2)

    def gathered(self, graph: Graph, rows: str) -> str:
        """Attention rows, where there are several lanes."""
        return self.lanes.gathered(graph, rows)

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, masks: Sequence[str]
    ) -> str:
        """Attention over the used prefix of each cache, with folded heads where query heads share key heads."""
        spec, fold, lanes = weights.model, weights.fold, self.lanes
        heads = spec.num_attention_heads // fold
        width = heads * spec.head_dim

        def reshaped(rows: str, heads: int) -> str:
            width = heads * spec.head_dim
            return graph.op("Reshape", rows, graph.constant(f"heads_{heads}", [1, -1, width])) if fold > 1 else rows

        queries = reshaped(self._rotate(graph, query, spec.num_attention_heads), heads)
        by_lane = zip(
            lanes.split(graph, queries, width, fold),
            lanes.split(graph, self._rotate(graph, key, spec.num_key_value_heads), spec.kv_width),
            lanes.split(graph, value, spec.kv_width),
            masks,
            strict=True,
        )
        attended = [
            graph.op(
                "Attention",
                query,
                self._update(graph, spec.kv_width, layer, "key", key, lane),
                self._update(graph, spec.kv_width, layer, "value", value, lane),
                mask,
                q_num_heads=heads,
                kv_num_heads=spec.num_key_value_heads,
                scale=spec.head_dim**-0.5,
            )
            for lane, (query, key, value, mask) in enumerate(by_lane)
        ]
        return lanes.packed(graph, reshaped(lanes.join(graph, attended, width, fold), spec.num_attention_heads))

    def _update(self, graph: Graph, width: int, layer: int, part: str, rows: str, lane: int) -> str:
        past, index = self.lanes.past(layer, part, lane), self.lanes.write_index(graph, lane)
        return _update(graph, past, rows, index, [1, self.slots(lane), width], axis=1)

    def _rotate(self, graph: Graph, rows: str, heads: int) -> str:
        caches = graph.weight(COS_CACHE), graph.weight(SIN_CACHE)
        return graph.op("RotaryEmbedding", rows, *caches, names.POSITION_IDS, num_heads=heads, interleaved=0)


@dataclass(frozen=True, slots=True)
class BHSD:
    """``[1, num_key_value_heads, slots, head_dim]``: the form that TensorRT updates in place, its length fixed.

    TensorRT joins layers itself. Given joined layers, it orders their parts at random, and two plans differ.
    """

    slots: int
    lanes: ClassVar[Lanes] = ONE_LANE
    name: ClassVar[str] = "BHSD"
    noise_rows: ClassVar[Dim] = 1
    joins_layers: ClassVar[bool] = False
    folds_heads: ClassVar[bool] = False

    def inputs(self, graph: Graph, weights: WeightSpec) -> Sequence[str]:
        """An additive mask in the scores' type, as TensorRT takes it; it builds only one of them."""
        self.lanes.declare(graph)
        readable = graph.input(names.ATTENTION_MASK, TensorProto.BOOL, [QUERY, self.slots])
        return [graph.op("Where", readable, graph.scalar("read", 0.0), graph.scalar("masked", MASKED))]

    def gathered(self, graph: Graph, rows: str) -> str:
        """The packed rows themselves."""
        return rows

    def attention(
        self, graph: Graph, weights: WeightSpec, layer: int, query: str, key: str, value: str, masks: Sequence[str]
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

        def updated(part: str, rows: str) -> str:
            return _update(graph, names.past(layer, part), rows, names.WRITE_INDEX, shape, axis=2)

        attended = graph.op(
            "Attention",
            rotated(query, spec.num_attention_heads),
            updated("key", rotated(key, kv_heads)),
            updated("value", heads_first(value, kv_heads)),
            masks[0],
            scale=spec.head_dim**-0.5,
        )
        width = spec.num_attention_heads * spec.head_dim
        joined = graph.constant("join", [1, -1, width])
        return graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), joined)


def _update(graph: Graph, past: str, rows: str, index: str, shape: Sequence[Dim], axis: int) -> str:
    """Write ``rows`` into a layer's cache ``past``, from graph input to graph output."""
    graph.input(past, graph.precision.onnx_type, shape)
    present = graph.output(names.present_of(past), graph.precision.onnx_type, shape)
    return graph.op("TensorScatter", past, rows, index, axis=axis, mode="linear", result=present)
