"""Several texts in one call: their rows are packed for all layers but attention, which runs per lane.

A lane is one text in a call. Linear layers, norms and the head take the rows of all lanes, packed ``[1, q]``. Attention
takes rows of its own, ``[1, m]``, lane after lane: ``attention_rows`` names the packed row that each of them repeats,
``packed_rows`` the attention row from which each packed row gets its result. So attention may have dummy rows, which
cost nothing elsewhere: a row that must not be alone in its lane, or the one row of an empty lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from export.nodes import Dim, Graph
from s2d_trt import names

QUERY = "query_length"
ATTENTION = "attention_length"


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of one graph. With a ``count`` of 1 a graph needs no node of this module."""

    count: int = 1

    @property
    def rows(self) -> Dim:
        """How many rows attention computes."""
        return QUERY if self.count == 1 else ATTENTION

    def length(self, lane: int) -> Dim:
        """How many rows attention computes in a lane."""
        return QUERY if self.count == 1 else f"lane_length.{lane}"

    def past(self, layer: int, part: str, lane: int) -> str:
        """Input name of a layer's cache in a lane."""
        return names.past(layer, part, None if self.count == 1 else lane)

    def mask(self, lane: int) -> str:
        """Input name of a lane's mask."""
        return names.ATTENTION_MASK if self.count == 1 else names.lane_mask(lane)

    def declare(self, graph: Graph) -> None:
        """Declare the inputs that say which rows belong to which lane."""
        graph.input(names.POSITION_IDS, TensorProto.INT64, [1, self.rows])
        graph.input(names.WRITE_INDEX, TensorProto.INT64, [self.count])
        if self.count > 1:
            graph.input(names.LANE_ROWS, TensorProto.INT64, [self.count])
            graph.input(names.ATTENTION_ROWS, TensorProto.INT64, [self.rows])
            graph.input(names.PACKED_ROWS, TensorProto.INT64, [QUERY])

    def gathered(self, graph: Graph, rows: str) -> str:
        """The attention rows of packed ``rows`` ``[1, q, width]``."""
        return rows if self.count == 1 else graph.op("Gather", rows, names.ATTENTION_ROWS, axis=1)

    def packed(self, graph: Graph, rows: str) -> str:
        """The packed rows of attention ``rows`` ``[1, m, width]``."""
        return rows if self.count == 1 else graph.op("Gather", rows, names.PACKED_ROWS, axis=1)

    def split(self, graph: Graph, rows: str, width: int, fold: int = 1) -> Sequence[str]:
        """Attention ``rows`` ``[1, m * fold, width]`` by lane."""
        if self.count == 1:
            return [rows]
        sizes = names.LANE_ROWS if fold == 1 else graph.once("folded_lane_rows", lambda: _times(graph, fold))
        parts = graph.ops("Split", rows, sizes, results=[f"{rows}_lane_{lane}" for lane in range(self.count)], axis=1)
        for lane, part in enumerate(parts):
            graph.describe(part, [1, self._folded(lane, fold), width])
        return parts

    def join(self, graph: Graph, parts: Sequence[str], width: int, fold: int = 1) -> str:
        """Attention rows ``[1, m * fold, width]`` of all lanes."""
        if self.count == 1:
            return parts[0]
        for lane, part in enumerate(parts):
            graph.describe(part, [1, self._folded(lane, fold), width])
        joined = graph.op("Concat", *parts, axis=1)
        graph.describe(joined, [1, ATTENTION if fold == 1 else f"folded_{ATTENTION}", width])
        return joined

    def write_index(self, graph: Graph, lane: int) -> str:
        """Slot of a lane's first row, ``[1]``."""
        if self.count == 1:
            return names.WRITE_INDEX
        ones = graph.constant("one_each", [1] * self.count)
        results = [f"{names.WRITE_INDEX}.{index}" for index in range(self.count)]
        graph.once(names.WRITE_INDEX, lambda: graph.ops("Split", names.WRITE_INDEX, ones, results=results, axis=0)[0])
        return results[lane]

    def _folded(self, lane: int, fold: int) -> Dim:
        return self.length(lane) if fold == 1 else f"folded_{self.length(lane)}"


def _times(graph: Graph, fold: int) -> str:
    return graph.op("Mul", names.LANE_ROWS, graph.constant("fold", [fold]))


ONE_LANE = Lanes()
