"""What a graph can compute in."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto


@dataclass(frozen=True, slots=True)
class Precision:
    """The element type of hidden states and caches, by the names that users, ONNX and NumPy have for it."""

    name: str
    onnx_type: int
    dtype: np.dtype
    integer_rows: bool = False
    """Whether linear layers round the rows that they read to integers, each with a scale of its own."""

    @property
    def weight_format(self) -> str:
        """What linear layers' weights are stored as unless ``--weights`` says otherwise."""
        return "int7" if self.integer_rows else self.name

    @property
    def smallest(self) -> float:
        """The smallest positive number that is not subnormal."""
        return float(ml_dtypes.finfo(self.dtype).tiny)


FP32 = Precision("fp32", TensorProto.FLOAT, np.dtype(np.float32))
FP16 = Precision("fp16", TensorProto.FLOAT16, np.dtype(np.float16))
BF16 = Precision("bf16", TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16))
INT8 = Precision("int8", TensorProto.FLOAT, np.dtype(np.float32), integer_rows=True)

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16, INT8)}
