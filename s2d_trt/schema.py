"""What a manifest may say: the ranges of its fields, and how they must agree with one another and with the weight file.

A manifest comes from whoever built the bundle. Its numbers decide what is allocated, so each is bounded before anything
is, and no more weights are described than the weight file has bytes for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

if TYPE_CHECKING:
    from s2d_trt.bundle import Manifest
    from s2d_trt.spec import ModelSpec

Layers = Annotated[int, Meta(ge=1, le=2**12)]
Heads = Annotated[int, Meta(ge=1, le=2**12)]
Channels = Annotated[int, Meta(ge=1, le=2**20)]
Vocabulary = Annotated[int, Meta(ge=1, le=2**24)]
Positions = Annotated[int, Meta(ge=1, le=2**27)]
Slots = Annotated[int, Meta(ge=0, le=2**28)]
Rows = Annotated[int, Meta(ge=1, le=2**20)]
Lanes = Annotated[int, Meta(ge=1, le=64)]
Candidates = Annotated[int, Meta(ge=0, le=2**12)]
TokenId = Annotated[int, Meta(ge=0, le=2**24)]
Bytes = Annotated[int, Meta(ge=0, le=2**50)]
Epsilon = Annotated[float, Meta(ge=1e-12, le=0.1)]
"""Outside it, float32 loses the number or every hidden state."""
Theta = Annotated[float, Meta(ge=1e-3, le=1e12)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Meta(pattern=r"^[\w.+-]{1,255}$")]
Text = Annotated[str, Meta(max_length=255)]

Kind = Annotated[str, Meta(pattern="^(draft|target)$")]
Precision = Annotated[str, Meta(pattern="^(fp32|fp16|bf16|int8)$")]
WeightFormat = Annotated[str, Meta(pattern="^(fp32|fp16|bf16|int8|int7|int4)$")]
Layout = Annotated[str, Meta(pattern="^(BSH|BHSD)$")]


def contradictions(manifest: Manifest, scratch_rows: int) -> Iterator[str]:
    """What in a manifest does not agree with the rest of it, in words."""
    model, cache, exits = manifest.model, manifest.cache, manifest.exits
    if "/" in manifest.name or not manifest.name or not manifest.name.isprintable():
        yield f"the name {manifest.name!r} is empty or holds characters that no bundle's name has"
    if model.num_attention_heads % model.num_key_value_heads:
        yield f"{model.num_attention_heads} heads cannot share {model.num_key_value_heads} key/value heads evenly"
    if model.head_dim % 2:
        yield f"head_dim {model.head_dim} is odd"
    if manifest.kind == "target" and (exits or manifest.head_top_k):
        yield "a target has no exits and no head_top_k"
    if manifest.kind == "draft":
        if not exits or exits[-1] != model.num_hidden_layers or not _rises((0, *exits)):
            yield f"exits {list(exits)} do not rise to the {model.num_hidden_layers} layers"
        if not 1 <= manifest.head_top_k <= model.vocab_size:
            yield f"head_top_k {manifest.head_top_k} is not between 1 and the vocabulary of {model.vocab_size}"
    if manifest.lanes[:1] != (1,) or not _rises(manifest.lanes):
        yield f"lanes {list(manifest.lanes)} do not rise from 1"
    ids = [*manifest.tokenizer.eos_token_ids, manifest.tokenizer.bos_token_id or 0]
    if max(ids) >= model.vocab_size:
        yield f"token id {max(ids)} is outside the vocabulary of {model.vocab_size}"
    if cache.slots if cache.layout == "BSH" else cache.slots < cache.max_length + scratch_rows:
        yield f"{cache.slots} slots do not fit layout {cache.layout} and {cache.max_length} positions"
    weights = manifest.files.get(manifest.weights)
    if weights is not None and weights.bytes < least_bytes(model, cache.max_length):
        yield f"a weight file of {weights.bytes} bytes is too small for the model and its {cache.max_length} positions"


def least_bytes(model: ModelSpec, positions: int) -> int:
    """Bytes below which no weight file of this model is: 4 bits a number, a head that may lack most tokens."""
    head = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    rotary = 2 * positions * (model.head_dim // 2)
    return (model.parameters - head) // 2 + 2 * rotary


def _rises(numbers: tuple[int, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))
