"""Query heads as rows: heads that share a key head are folded, so that attention computes few heads of many rows.

ONNX Runtime's CPU attention computes a head of one row with another kernel than a head of several rows, and the two
round differently. A model whose query heads share key heads never meets that kernel when ``fold`` of them become rows:
``[1, q, H * D]`` is read as ``[1, q * fold, H / fold * D]``. Both are the same memory where the weights store the query
heads as ``[fold, H / fold]``.
"""

from __future__ import annotations

import numpy as np

from s2d_trt.spec import ModelSpec


def smallest_fold(spec: ModelSpec) -> int:
    """The fewest query heads above 1 that can be folded; 1 where every query head has a key head of its own."""
    shared = spec.num_attention_heads // spec.num_key_value_heads
    return next((fold for fold in range(2, shared + 1) if shared % fold == 0), 1)


def folded_order(spec: ModelSpec, fold: int) -> tuple[int, ...]:
    """The checkpoint's query heads in the order ``[fold, H / fold]``; those of a key head stay with it."""
    heads = np.arange(spec.num_attention_heads).reshape(spec.num_key_value_heads, fold, -1)
    return tuple(heads.transpose(1, 0, 2).reshape(-1).tolist())
