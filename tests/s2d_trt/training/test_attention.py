"""Attention with its own backward pass: the same gradients as torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from s2d_trt.spec import ModelSpec
from s2d_trt.training import attention
from s2d_trt.training.attention import causal_attention
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import new_model


def _inputs(length: int) -> list[torch.Tensor]:
    """Query with six heads, key and value with two; the key is a view that is not contiguous."""
    generator = torch.Generator().manual_seed(length)
    query, value = (torch.randn(2, heads, length, 8, generator=generator) for heads in (6, 2))
    key = torch.randn(2, length, 2, 8, generator=generator).transpose(1, 2)
    return [part.requires_grad_() for part in (query, key, value)]


@pytest.mark.parametrize("length", [1, 7, 8, 20])
def test_output_and_gradients_are_those_of_torch(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    query, key, value = _inputs(length)
    upstream = torch.randn(2, length, 6, 8, generator=torch.Generator().manual_seed(0))
    ours = causal_attention(query, key, value, 0.3)
    keys, values = (part.repeat_interleave(3, 1) for part in (key, value))
    theirs = F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(output, (query, key, value), upstream) for output in (ours, theirs))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_the_operator_keeps_to_what_torch_asks_of_one() -> None:
    torch.library.opcheck(causal_attention, (*_inputs(12), 0.3), test_utils=("test_schema", "test_faketensor"))


def test_a_model_can_be_switched_to_it_and_back(vocabulary: Vocabulary) -> None:
    spec = ModelSpec.llama(hidden=16, layers=2, heads=4, kv_heads=2, ffn=24, vocab=vocabulary.size, tied=True)
    model: PreTrainedModel = new_model(spec, 64, (2,), 0, vocabulary)
    tokens = torch.arange(20)[None]
    before = attention.use(model)
    switched = model(input_ids=tokens).logits
    assert attention.use(model, before) == attention.NAME
    torch.testing.assert_close(switched, model(input_ids=tokens).logits)
