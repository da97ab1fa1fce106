"""The tensors of a model: their names, as Hugging Face has them, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from s2d_trt.spec import ModelSpec

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
HEAD_TOKENS = "lm_head.tokens"
"""Token ids of a head's rows, where it keeps only some."""
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Linear layers that read the same rows, which a weight file may hold as one, their outputs side by side."""


def layer_tensor(layer: int, part: str, kind: str = "weight") -> str:
    """Name of a layer's ``weight`` or ``bias``; ``part`` is for example ``self_attn.q_proj``."""
    return f"model.layers.{layer}.{part}.{kind}"


def head_tensor(spec: ModelSpec) -> str:
    """The matrix ``[V, H]`` that computes the logits: the embedding where the two are tied."""
    return EMBEDDING if spec.tie_word_embeddings else LM_HEAD


@cache
def checkpoint_shapes(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """Name and shape, as the checkpoint stores them, of every tensor that ``spec`` needs, in file order."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocab_size, spec.hidden_size)}
    for layer in range(spec.num_hidden_layers):
        for part, shape in _layer_shapes(spec).items():
            shapes[layer_tensor(layer, part)] = shape
            if has_bias(spec, part):
                shapes[layer_tensor(layer, part, "bias")] = shape[:1]
    shapes[FINAL_NORM] = (spec.hidden_size,)
    shapes[head_tensor(spec)] = (spec.vocab_size, spec.hidden_size)
    return MappingProxyType(shapes)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a linear layer multiplies with this tensor; the embedding is looked up, also where it is the head."""
    return len(shape) == 2 and name != EMBEDDING


def has_bias(spec: ModelSpec, part: str) -> bool:
    """Whether a layer's linear ``part`` adds a bias."""
    group, _, name = part.partition(".")
    if group == "mlp":
        return spec.mlp_bias
    if group != "self_attn" or not name.endswith("_proj"):
        return False
    return spec.output_bias if name == "o_proj" else spec.qkv_bias


def query_head_axis(name: str) -> int | None:
    """The axis of a checkpoint's tensor along which query heads lie; None where there are none."""
    part = name.split(".")[-2]
    return 0 if part == "q_proj" else 1 if part == "o_proj" and name.endswith("weight") else None


def output_width(spec: ModelSpec, part: str) -> int:
    """Width of the output of a layer's linear ``part``."""
    return _layer_shapes(spec)[part][0]


def stored_tensors(spec: ModelSpec, joined: bool) -> dict[str, tuple[str, ...]]:
    """Name of every tensor of the weight file, in file order, and the checkpoint's tensors that it joins.

    With ``joined``, layers that read the same rows are one.
    """
    stored: dict[str, tuple[str, ...]] = {}
    for name in checkpoint_shapes(spec):
        parent, _, kind = name.rpartition(".")
        owner, _, part = parent.rpartition(".")
        one = next((whole for whole, parts in JOINED.items() if joined and part in parts), None)
        whole = f"{owner}.{one}.{kind}" if one else name
        stored[whole] = (*stored.get(whole, ()), name)
    return stored


def _layer_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    heads_width = spec.num_attention_heads * spec.head_dim
    norms = {"self_attn.q_norm": (spec.head_dim,), "self_attn.k_norm": (spec.head_dim,)} if spec.qk_norm else {}
    return {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (heads_width, hidden),
        "self_attn.k_proj": (spec.kv_width, hidden),
        "self_attn.v_proj": (spec.kv_width, hidden),
        **norms,
        "self_attn.o_proj": (hidden, heads_width),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
