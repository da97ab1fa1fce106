"""The weight file of a bundle: every tensor once, page-aligned, written as the checkpoint is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.checkpoint import Checkpoint, Float32Array
from export.encoding import Encoding, Quantization, StoredTensor, exact
from s2d_trt.spec import ModelSpec

ALIGNMENT = 4096
"""A page, so that a runtime can map a tensor instead of copying it."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
COS_CACHE = "rotary.cos"
SIN_CACHE = "rotary.sin"
DEFAULT_ENCODING = Encoding()


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """Where a tensor lies in the weight file, offset and length in bytes, and what it is stored as."""

    shape: tuple[int, ...]
    offset: int
    length: int
    onnx_type: int
    quantization: Quantization | None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A written weight file and what is in it, by tensor name."""

    bytes: int
    sha256: str
    tensors: Mapping[str, TensorLocation]

    @property
    def head(self) -> str:
        """The matrix that gives the logits, ``[V, H]``: the embedding itself where nothing else is stored."""
        return LM_HEAD if LM_HEAD in self.tensors else EMBEDDING


def layer_tensor(layer: int, part: str) -> str:
    """Name of a layer's weight, as Hugging Face has it; ``part`` is for example ``self_attn.q_proj``."""
    return f"model.layers.{layer}.{part}.weight"


def head_tensor(spec: ModelSpec) -> str:
    """The matrix that gives the logits, ``[V, H]``: the embedding itself where the two are tied."""
    return EMBEDDING if spec.tie_word_embeddings else LM_HEAD


def checkpoint_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape, as the checkpoint stores them, of every tensor that ``spec`` needs, in file order."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    heads_width = spec.num_attention_heads * spec.head_dim
    in_layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (heads_width, hidden),
        "self_attn.k_proj": (spec.kv_width, hidden),
        "self_attn.v_proj": (spec.kv_width, hidden),
        "self_attn.o_proj": (hidden, heads_width),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocab_size, hidden)}
    for layer in range(spec.num_hidden_layers):
        shapes |= {layer_tensor(layer, part): shape for part, shape in in_layer.items()}
    shapes[FINAL_NORM] = (hidden,)
    shapes[head_tensor(spec)] = (spec.vocab_size, hidden)
    return shapes


def rotary_caches(spec: ModelSpec, max_length: int) -> tuple[Float32Array, Float32Array]:
    """Cosine and sine of every position's angles, each ``[max_length, head_dim / 2]`` float32.

    Angles are taken in float32 as Hugging Face does, so that both round alike at late positions.
    """
    exponent = np.arange(0, spec.head_dim, 2, dtype=np.float32) / np.float32(spec.head_dim)
    frequency = np.float32(1) / np.power(np.float32(spec.rope_theta), exponent)
    angles = np.arange(max_length, dtype=np.float32)[:, None] * frequency[None, :]
    return np.cos(angles), np.sin(angles)


def write_weights(
    checkpoint: Checkpoint, spec: ModelSpec, max_length: int, path: Path, encoding: Encoding = DEFAULT_ENCODING
) -> WeightFile:
    """Write every tensor that ``spec`` needs, one in memory at a time.

    Linear layers become ``[in, out]`` for MatMul; embedding and head stay ``[V, H]``, which Gather and a Gemm with a
    transposed right side both read, so that tied weights are stored once (twice where the head is quantised).

    Raises:
        CheckpointError: a tensor is missing, has another shape, cannot be read or does not fit the precision.
    """
    checkpoint.check_tensors(checkpoint_shapes(spec))
    tensors: dict[str, TensorLocation] = {}
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for tensor in _stored(checkpoint, spec, max_length, encoding):
            padding = bytes(-file.tell() % ALIGNMENT)
            content = np.ascontiguousarray(tensor.content).reshape(-1).view(np.uint8).data
            for part in (padding, content):
                file.write(part)
                digest.update(part)
            tensors[tensor.name] = TensorLocation(
                tensor.shape, file.tell() - len(content), len(content), tensor.onnx_type, tensor.quantization
            )
        size = file.tell()
    return WeightFile(size, digest.hexdigest(), tensors)


def _stored(checkpoint: Checkpoint, spec: ModelSpec, max_length: int, encoding: Encoding) -> Iterator[StoredTensor]:
    for name, shape in checkpoint_shapes(spec).items():
        array = checkpoint.read(name)
        if name == LM_HEAD:
            yield from encoding.stored(name, array, input_axis=1, head=True)
        elif len(shape) == 2 and name != EMBEDDING:
            yield from encoding.stored(name, array.T, input_axis=0)
        else:
            yield from encoding.stored(name, array, input_axis=None)
        if name == EMBEDDING and spec.tie_word_embeddings and encoding.quantizes:
            yield from encoding.stored(LM_HEAD, array, input_axis=1, head=True)
    cos, sin = rotary_caches(spec, max_length)
    yield exact(COS_CACHE, cos)
    yield exact(SIN_CACHE, sin)
