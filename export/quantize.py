"""Symmetric quantisation of weights: int8 and int7 with one scale a channel, int4 with one a block of inputs.

Both are what DequantizeLinear undoes in front of a MatMul; TensorRT keeps these forms compressed in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.precision import Precision
from export.rotary import Float32Array
from s2d_trt.errors import OptionError

LARGEST = {"int8": 127, "int7": 63}
"""Largest integer of a weight that is stored as a byte. On x86-64 without VNNI, ONNX Runtime adds two products of an
unsigned and a signed byte in 16 bits: 2 x 255 x 63 fits, 2 x 255 x 127 does not."""
BLOCK_SIZES = (64, 32)
"""Inputs that share a scale in int4, the largest that divides a layer's width; TensorRT takes 32, 64 and 128."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix as integers: ``values`` int8 in the matrix's shape, ``scales`` in the graph's precision.

    ``scales`` is ``[outputs]`` where ``block_size`` is 0, else the matrix's shape with the input axis divided by it.
    ``axis`` is DequantizeLinear's: that of the outputs, or that of the blocks.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.generic]
    axis: int
    block_size: int
    onnx_type: int

    def content(self) -> NDArray[np.int8] | NDArray[np.uint8]:
        """The values as ONNX stores them: int4 in pairs, the first in the low half of a byte."""
        if self.onnx_type == TensorProto.INT8:
            return self.values
        nibbles = self.values.reshape(-1).view(np.uint8) & 0x0F
        return nibbles[0::2] | (nibbles[1::2] << 4)

    def dequantized(self) -> Float32Array:
        """What the integers stand for, float32."""
        scales = self.scales.astype(np.float32)
        if self.block_size:
            scales = scales.repeat(self.block_size, axis=self.axis)
        else:
            scales = np.expand_dims(scales, 1 - self.axis)
        return self.values * scales


def quantize(matrix: Float32Array, weight_format: str, input_axis: int, precision: Precision) -> Quantized:
    """Round a matrix whose axis ``input_axis`` is summed over by MatMul; ``weight_format`` is int8, int7 or int4.

    Raises:
        OptionError: int4, and no block size divides the inputs.
    """
    if weight_format in LARGEST:
        most = np.abs(matrix).max(axis=input_axis, keepdims=True)
        values, scales = _rounded(matrix, most, LARGEST[weight_format], precision)
        return Quantized(values, scales.squeeze(input_axis), 1 - input_axis, 0, TensorProto.INT8)
    inputs = matrix.shape[input_axis]
    size = next((size for size in BLOCK_SIZES if inputs % size == 0), None)
    if size is None:
        raise OptionError(
            f"--weights int4 needs layers whose widths are multiples of {BLOCK_SIZES[-1]}, and one has {inputs} inputs;"
            " use --weights int8"
        )
    shape = list(matrix.shape)
    shape[input_axis : input_axis + 1] = [inputs // size, size]
    blocks = matrix.reshape(shape)
    values, scales = _rounded(blocks, np.abs(blocks).max(axis=input_axis + 1, keepdims=True), 7, precision)
    scales = scales.squeeze(input_axis + 1)
    return Quantized(values.reshape(matrix.shape), scales, input_axis, size, TensorProto.INT4)


def _rounded(
    array: Float32Array, largest: Float32Array, top: int, precision: Precision
) -> tuple[NDArray[np.int8], NDArray[np.generic]]:
    """Integers within ``top`` and their scales. A scale is never 0, which TensorRT refuses."""
    scales = np.maximum(largest / np.float32(top), np.float32(precision.smallest)).astype(precision.dtype)
    values = np.clip(np.rint(array / scales.astype(np.float32)), -top, top).astype(np.int8)
    return values, scales
