"""The stored form of a weight: its element type, and whether it is quantised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.checkpoint import JoinedView, RowsView
from export.precision import FP32, INT8, Precision
from export.quantize import quantize
from export.rotary import Float32Array
from s2d_trt.errors import CheckpointError

QUANTIZED_FORMATS = ("int8", "int4")
"""Formats that ``--weights`` offers: DequantizeLinear undoes them in front of a product in floating point."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """DequantizeLinear's second input and its attributes; ``block_size`` 0 is one scale a channel of ``axis``."""

    scale: str
    axis: int
    block_size: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One array of the weight file: ``content`` is what is written, block by block, ``shape`` and ``onnx_type`` what
    it stands for.
    """

    name: str
    content: Iterable[NDArray[Any]]
    shape: tuple[int, ...]
    onnx_type: int
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the weights of a bundle are stored as: ``weight_format`` is the precision's name, int8, int7 or int4.

    Only matrices that a MatMul or Gemm reads are quantised. The head is int8 in int4 bundles too: rounding it changes
    every token's score, and it is a small part of the weights.
    """

    precision: Precision = FP32
    weight_format: str = FP32.name

    @property
    def quantizes(self) -> bool:
        """Whether the linear layers are stored as integers."""
        return self.weight_format in (*QUANTIZED_FORMATS, INT8.weight_format)

    def bits(self, matrix: bool, head: bool = False) -> int:
        """Bits of a stored number, of a ``matrix`` that a linear layer reads or of something else."""
        if not matrix or not self.quantizes:
            return self.precision.dtype.itemsize * 8
        return 4 if self._format(head) == "int4" else 8

    def _format(self, head: bool) -> str:
        return "int8" if head and self.weight_format == "int4" else self.weight_format

    def stored(
        self, source: JoinedView | RowsView, input_axis: int | None, head: bool = False
    ) -> Iterator[StoredTensor]:
        """The arrays to write for a weight; ``input_axis`` is the axis a linear layer sums over, else None.

        Raises:
            CheckpointError: a number does not fit the precision.
            OptionError: int4, and a layer's width is no multiple of a block.
        """
        name = source.name
        if input_axis is None or not self.quantizes:
            blocks = (self._cast(name, block) for block in source.blocks())
            yield StoredTensor(name, blocks, source.shape, self.precision.onnx_type)
            return
        found = quantize(source.read(), self._format(head), input_axis, self.precision)
        scale = f"{name}.scale"
        quantization = Quantization(scale, found.axis, found.block_size)
        yield StoredTensor(name, [found.content()], source.shape, found.onnx_type, quantization)
        yield StoredTensor(scale, [found.scales], found.scales.shape, self.precision.onnx_type)

    def rounded(self, name: str, array: Float32Array, input_axis: int | None, head: bool = False) -> Float32Array:
        """The numbers that a graph reads back, float32, for a weight in any orientation."""
        if input_axis is None or not self.quantizes:
            return self._cast(name, array).astype(np.float32)
        return quantize(array, self._format(head), input_axis, self.precision).dequantized()

    def _cast(self, name: str, array: Float32Array) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            cast = array.astype(self.precision.dtype)
        if not np.isfinite(cast).all():
            raise CheckpointError(
                f"tensor {name} holds numbers up to {np.abs(array).max():.3g}, beyond the range of"
                f" {self.precision.name}; use --precision bf16"
            )
        return cast


FP32_WEIGHTS = Encoding()


def exact(name: str, array: Float32Array) -> StoredTensor:
    """An array that stays float32 in every bundle; graphs cast it."""
    return StoredTensor(name, [array], array.shape, TensorProto.FLOAT)
