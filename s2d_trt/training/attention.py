"""Causal attention for training on processors that multiply bf16 natively.

There the backward pass of torch's fused attention takes about 40 % of a small model's step, several times as long as
the same products as plain matrix multiplications. This one keeps torch's forward pass and replaces the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

NAME = "s2d_causal"
BLOCK = 256
"""Queries in one block of the backward pass; a block's probabilities should fit the processor's cache."""


@torch.library.custom_op("s2d_trt::causal_attention", mutates_args=())
def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of ``query [B, H, T, D]`` to ``key`` and ``value`` ``[B, G, T, D]``; returns ``[B, T, H, D]``.

    ``H`` is a multiple of ``G``: query heads in a row share one of the key and value heads.
    """
    repeats = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(repeats, 1) for part in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling)
    return output.transpose(1, 2).contiguous()


@torch.library.custom_op("s2d_trt::causal_attention_backward", mutates_args=())
def _backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value; the probabilities are computed again, block by block."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    gradient = gradient.transpose(1, 2)
    keys, values = (part.reshape(batch * groups, length, width) for part in (key, value))
    queries_gradient = torch.empty_like(query, memory_format=torch.contiguous_format)
    # Sums over several blocks are fp32.
    sums = torch.float32 if length > BLOCK else keys.dtype
    keys_gradient, values_gradient = (torch.zeros(keys.shape, dtype=sums) for _ in range(2))
    bias = torch.full((min(BLOCK, length),) * 2, float("-inf"), dtype=query.dtype).triu(1)
    for first in range(0, length, BLOCK):
        last = min(first + BLOCK, length)
        rows = last - first
        seen_keys, seen_values = keys[:, :last], values[:, :last]
        # The query heads that share a key head are rows of one product.
        queries = (query[:, :, first:last] * scaling).reshape(batch * groups, -1, width)
        upstream = gradient[:, :, first:last].reshape(batch * groups, -1, width)
        scores = torch.bmm(queries, seen_keys.mT)
        scores.view(batch * groups, -1, rows, last)[..., first:].add_(bias[:rows, :rows])
        shares = torch.softmax(scores, -1)
        values_gradient[:, :last] += torch.bmm(shares.mT, upstream)
        step = torch._softmax_backward_data(torch.bmm(upstream, seen_values.mT), shares, -1, shares.dtype)
        queries_gradient[:, :, first:last] = torch.bmm(step, seen_keys).view(batch, heads, rows, width) * scaling
        keys_gradient[:, :last] += torch.bmm(step.mT, queries)
    return queries_gradient, keys_gradient.to(key.dtype).view(key.shape), values_gradient.to(key.dtype).view(key.shape)


@causal_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    return query.new_empty(query.shape).transpose(1, 2).contiguous()


@_backward.register_fake
def _(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    query, key, value, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value)


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    return *_backward(gradient, *ctx.saved_tensors, ctx.scaling), None


causal_attention.register_autograd(_differentiate, setup_context=_keep)


def _attend(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float,
    **_options: Any,
) -> tuple[torch.Tensor, None]:
    # Rotary embedding makes queries and keys fp32 under autocast, but not values.
    return causal_attention(query.to(value.dtype), key.to(value.dtype), value, scaling), None


AttentionInterface.register(NAME, _attend)


def use(model: PreTrainedModel, name: str = NAME) -> str:
    """Switch the model to another attention; returns the name of the one that it had."""
    before: str = model.config._attn_implementation
    model.config._attn_implementation = name
    return before
