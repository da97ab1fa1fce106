"""The product of rows and a weight: in floating point, or in integers with one scale for each row.

Dynamic quantisation has one scale for the whole tensor, so a row's result would depend on the rows beside it.
"""

from __future__ import annotations

import numpy as np

from export.nodes import Graph

ZERO_POINT = 128
"""Rows are unsigned: ONNX Runtime has its fast kernels for unsigned rows and signed weights."""
LARGEST = 127
SMALLEST_SCALE = 1e-30
"""A row of zeros must not divide by zero."""


def linear(graph: Graph, rows: str, weight: str, row_axis: int = 1, result: str | None = None) -> str:
    """``rows @ weight [in, out]`` in the graph's precision; the output is named ``result`` where given.

    ``rows`` is ``[1, q, in]``, or ``[q, in]`` with ``row_axis`` 0.
    """
    if not graph.precision.integer_rows:
        return graph.op("MatMul", rows, graph.weight(weight), result=result)
    values, column_scales = graph.integer_weight(weight)
    integers, row_scales = _rounded(graph, rows, row_axis)
    products = graph.op("MatMulInteger", integers, values, _zero_point(graph))
    scaled = graph.op("DequantizeLinear", products, row_scales, axis=row_axis)
    return graph.op("Mul", scaled, column_scales, result=result)


def _rounded(graph: Graph, rows: str, row_axis: int) -> tuple[str, str]:
    """The rows as uint8 around ``ZERO_POINT``, and their scales ``[q]``."""
    others = [axis for axis in range(row_axis + 2) if axis != row_axis]
    axes = graph.constant(f"all_but_{row_axis}", others)
    largest = graph.op("ReduceMax", graph.op("Abs", rows), axes, keepdims=0)
    scales = graph.op("Mul", largest, graph.scalar("rounding", 1 / LARGEST))
    scales = graph.op("Max", scales, graph.scalar("smallest_scale", SMALLEST_SCALE))
    zero_points = graph.once(
        f"zero_points_{row_axis}", lambda: graph.op("Expand", _zero_point(graph), graph.op("Shape", scales))
    )
    return graph.op("QuantizeLinear", rows, scales, zero_points, axis=row_axis), scales


def _zero_point(graph: Graph) -> str:
    return graph.constant("zero_point", ZERO_POINT, np.uint8)
