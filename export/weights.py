"""The weight file of a bundle: every tensor once, page-aligned, written as the checkpoint is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.checkpoint import Checkpoint, RowsView
from export.encoding import Quantization, StoredTensor, exact
from export.hashed_file import HashedFile
from export.rotary import COS_CACHE, SIN_CACHE
from export.tensors import EMBEDDING, HEAD_TOKENS, LM_HEAD, is_matrix, stored_tensors
from export.weight_spec import WeightSpec

ALIGNMENT = 4096
"""A page, so that a runtime can map a tensor instead of copying it."""


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """A tensor's place in the weight file, offset and length in bytes, and its stored type."""

    shape: tuple[int, ...]
    offset: int
    length: int
    onnx_type: int
    quantization: Quantization | None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A written weight file and its tensors by name."""

    spec: WeightSpec
    bytes: int
    sha256: str
    tensors: Mapping[str, TensorLocation]

    @property
    def head(self) -> str:
        """The matrix that computes the logits: the embedding where no other is stored."""
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
        """Whether the head is stored as ``[H, V]`` instead of ``[V, H]``."""
        form = self.tensors[self.head].quantization
        return form is not None and form.axis == 1


def write_weights(checkpoint: Checkpoint, spec: WeightSpec, path: Path) -> WeightFile:
    """Write every tensor that ``spec`` names, a block in memory at a time (a whole tensor where it is quantised).

    Linear layers become ``[in, out]`` for MatMul; embedding and head stay ``[V, H]``, which Gather and a Gemm with a
    transposed right side both read, so that tied weights are stored once (twice where the head has its own form).

    Raises:
        CheckpointError: a tensor is missing, has another shape, cannot be read or does not fit the precision.
    """
    checkpoint.check_tensors(spec.shapes)
    tensors: dict[str, TensorLocation] = {}
    with HashedFile(path, spec.bytes) as file:
        for tensor in _stored(checkpoint, spec):
            file.write(bytes(-file.size % ALIGNMENT))
            offset = file.size
            for block in tensor.content:
                file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            tensors[tensor.name] = TensorLocation(
                tensor.shape, offset, file.size - offset, tensor.onnx_type, tensor.quantization
            )
    return WeightFile(spec, file.size, file.sha256, tensors)


def _stored(checkpoint: Checkpoint, spec: WeightSpec) -> Iterator[StoredTensor]:
    encoding, heads = spec.encoding, spec.head_order
    for name, parts in stored_tensors(spec.model, spec.joined).items():
        if name == LM_HEAD:
            yield from _head(checkpoint, name, spec)
        elif is_matrix(name, spec.shapes[parts[0]]):
            yield from encoding.stored(checkpoint.joined(name, parts, transposed=True, heads=heads), input_axis=0)
        else:
            yield from encoding.stored(checkpoint.joined(name, parts, heads=heads), input_axis=None)
        if name == EMBEDDING and spec.splits_tied_head:
            yield from _head(checkpoint, name, spec)
    cos, sin = checkpoint.config.rotary.caches(spec.model.head_dim, spec.max_length)
    yield exact(COS_CACHE, cos)
    yield exact(SIN_CACHE, sin)


def _head(checkpoint: Checkpoint, source: str, spec: WeightSpec) -> Iterator[StoredTensor]:
    """The head, transposed for MatMulInteger, which unlike Gemm reads its right side in one direction only."""
    transposed = spec.encoding.precision.integer_rows
    view = (
        RowsView(LM_HEAD, checkpoint.view(source), spec.head_tokens, transposed)
        if spec.head_tokens
        else checkpoint.joined(LM_HEAD, [source], transposed)
    )
    yield from spec.encoding.stored(view, input_axis=0 if transposed else 1, head=True)
    if spec.head_tokens:
        ids = np.array(spec.head_tokens, np.int64)
        yield StoredTensor(HEAD_TOKENS, [ids], ids.shape, TensorProto.INT64)
