"""The weight file of a bundle: every tensor once, page-aligned, written as the checkpoint is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.checkpoint import Checkpoint, RowsView
from export.encoding import Encoding, Quantization, StoredTensor, exact
from export.hashed_file import HashedFile
from export.heads import folded_order
from export.rotary import COS_CACHE, SIN_CACHE
from export.tensors import EMBEDDING, HEAD_TOKENS, LM_HEAD, checkpoint_shapes, stored_tensors
from s2d_trt.spec import ModelSpec

ALIGNMENT = 4096
"""A page, so that a runtime can map a tensor instead of copying it."""

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

    @property
    def lacks_tokens(self) -> bool:
        """Whether the head has only the rows of some tokens."""
        return HEAD_TOKENS in self.tensors

    @property
    def head_rows(self) -> int:
        """How many tokens the head can answer with."""
        return self.tensors[self.head].shape[1 if self.head_is_transposed else 0]

    @property
    def head_is_transposed(self) -> bool:
        """Whether it lies as ``[H, V]`` instead."""
        form = self.tensors[self.head].quantization
        return form is not None and form.axis == 1


def write_weights(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    max_length: int,
    path: Path,
    encoding: Encoding = DEFAULT_ENCODING,
    head_tokens: tuple[int, ...] = (),
    joined: bool = True,
    fold: int = 1,
) -> WeightFile:
    """Write every tensor that ``spec`` needs, a block in memory at a time (a whole tensor where it is quantised).

    Linear layers become ``[in, out]`` for MatMul; embedding and head stay ``[V, H]``, which Gather and a Gemm with a
    transposed right side both read, so that tied weights are stored once (twice where the head is quantised). With
    ``joined``, layers that read the same rows are one. Query heads lie in ``folded_order``. Of the head,
    ``head_tokens`` are all rows that are kept, where any are named.

    Raises:
        CheckpointError: a tensor is missing, has another shape, cannot be read or does not fit the precision.
    """
    checkpoint.check_tensors(checkpoint_shapes(spec))
    tensors: dict[str, TensorLocation] = {}
    with HashedFile(path, weight_bytes(spec, max_length, encoding, len(head_tokens))) as file:
        for tensor in _stored(checkpoint, spec, max_length, encoding, head_tokens, joined, fold):
            file.write(bytes(-file.size % ALIGNMENT))
            offset = file.size
            for block in tensor.content:
                file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            tensors[tensor.name] = TensorLocation(
                tensor.shape, offset, file.size - offset, tensor.onnx_type, tensor.quantization
            )
    return WeightFile(file.size, file.sha256, tensors)


def weight_bytes(spec: ModelSpec, max_length: int, encoding: Encoding = DEFAULT_ENCODING, head_tokens: int = 0) -> int:
    """Size of the weight file, to a few parts in a thousand: padding and scales of quantised weights are left out."""
    total = 2 * max_length * (spec.head_dim // 2) * 4
    for name, shape in checkpoint_shapes(spec).items():
        matrix = len(shape) == 2 and name != EMBEDDING
        total += math.prod(shape) * encoding.bits(matrix, head=name == LM_HEAD) // 8
    if spec.tie_word_embeddings and (encoding.quantizes or head_tokens):
        total += spec.vocab_size * spec.hidden_size * encoding.bits(matrix=True, head=True) // 8
    if head_tokens:
        total -= (spec.vocab_size - head_tokens) * spec.hidden_size * encoding.bits(matrix=True, head=True) // 8
    return total


def _stored(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    max_length: int,
    encoding: Encoding,
    head_tokens: tuple[int, ...],
    joined: bool,
    fold: int,
) -> Iterator[StoredTensor]:
    shapes, heads = checkpoint_shapes(spec), folded_order(spec, fold) if fold > 1 else ()
    for name, parts in stored_tensors(spec, joined).items():
        if name == LM_HEAD:
            yield from _head(checkpoint, name, encoding, head_tokens)
        elif len(shapes[parts[0]]) == 2 and name != EMBEDDING:
            yield from encoding.stored(checkpoint.joined(name, parts, transposed=True, heads=heads), input_axis=0)
        else:
            yield from encoding.stored(checkpoint.joined(name, parts, heads=heads), input_axis=None)
        if name == EMBEDDING and spec.tie_word_embeddings and (encoding.quantizes or head_tokens):
            yield from _head(checkpoint, name, encoding, head_tokens)
    cos, sin = checkpoint.config.rotary.caches(spec.head_dim, max_length)
    yield exact(COS_CACHE, cos)
    yield exact(SIN_CACHE, sin)


def _head(
    checkpoint: Checkpoint, source: str, encoding: Encoding, head_tokens: tuple[int, ...]
) -> Iterator[StoredTensor]:
    """MatMulInteger, unlike Gemm, reads its right side in one direction only."""
    transposed = encoding.precision.integer_rows
    view = (
        RowsView(LM_HEAD, checkpoint.view(source), head_tokens, transposed)
        if head_tokens
        else checkpoint.joined(LM_HEAD, [source], transposed)
    )
    yield from encoding.stored(view, input_axis=0 if transposed else 1, head=True)
    if head_tokens:
        ids = np.array(head_tokens, np.int64)
        yield StoredTensor(HEAD_TOKENS, [ids], ids.shape, TensorProto.INT64)
