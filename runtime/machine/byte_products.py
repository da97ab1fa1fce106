"""Whether ONNX Runtime sums products of unsigned and signed bytes exactly on this processor.

On x86-64 without VNNI its kernels add two products in 16 bits, which saturates. Processors are not told apart by name
or flags: a graph that the package ships is computed and compared with NumPy.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import onnxruntime as ort

SHAPE = (259, 17)
"""Of the graph's weights. Neither size is a multiple of a kernel's block, so that the kernels' tails run too."""
ROW_COUNTS = (1, 2, 7, 32)
"""Kernels differ by the number of rows."""


@cache
def byte_products_overflow() -> bool:
    """Whether a session with default options gives wrong sums; computed once in a process, in milliseconds."""
    return not products_are_exact(ort.SessionOptions())


def products_are_exact(options: ort.SessionOptions) -> bool:
    """Compute products of the largest and smallest bytes with ``options``, and compare them with NumPy's."""
    model = resources.files(__package__).joinpath("byte_products.onnx").read_bytes()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    weights = np.resize(np.array([127, 127, -128, 127, -128]), SHAPE)
    for count in ROW_COUNTS:
        rows = np.resize(np.array([255, 255, 0], np.uint8), (count, SHAPE[0]))
        if not np.array_equal(session.run(None, {"rows": rows})[0], (rows.astype(np.int64) - 128) @ weights):
            return False
    return True
