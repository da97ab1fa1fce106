"""ONNX Runtime on a GPU: the same graphs, bound to device memory, on the one stream that takes all work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.backends.cpu.session import graph_path, session_options
from runtime.backends.cuda.backend import GpuBackend
from runtime.backends.cuda.graph import Tensor
from runtime.backends.cuda.memory import Gpu
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError, OptionError
from s2d_trt.manifest import SCRATCH_ROWS

_BFLOAT16 = 16
"""The type's number in ONNX; NumPy has no such type."""
_ELEMENTS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": _BFLOAT16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCuda(GpuBackend):
    """Sessions of the CUDA provider on ``gpu``.

    In layout BSH the texts of a call run one after another: its graphs for several texts are for CPUs.
    """

    name = "ONNX Runtime"

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu)
        if PROVIDER not in ort.get_available_providers():
            raise OptionError(
                "this onnxruntime has no CUDA provider; replace it: pip uninstall onnxruntime, then pip install"
                " onnxruntime-gpu"
            )

    def load(self, bundle: Bundle, graph: str) -> OnnxDeviceGraph:
        """Open a session on the GPU's stream. Raises BundleError, OptionError."""
        options = {
            "device_id": str(self.gpu.index),
            "user_compute_stream": str(self.gpu.stream),
            # Rounding float32 to 10 bits would make fp32 bundles inexact.
            "use_tf32": "0",
        }
        return OnnxDeviceGraph(bundle, graph, [(PROVIDER, options)], "cuda", self.gpu.index)


class OnnxDeviceGraph:
    """A session for any number of rows; never recorded, because ONNX Runtime queues its kernels itself."""

    max_rows = SCRATCH_ROWS
    edges: tuple[int, ...] = ()
    recordable = False

    def __init__(self, bundle: Bundle, graph: str, providers: list[Any], device: str, index: int) -> None:
        path = graph_path(bundle, graph)
        self._device, self._index = device, index
        try:
            self._session = ort.InferenceSession(str(path), session_options(1), providers)
        except Exception as cause:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"{path} cannot be loaded on {device} ({cause}); build the bundle again") from cause
        if (loaded := self._session.get_providers()[0]) != (wanted := providers[0][0]):
            raise OptionError(f"{wanted} cannot be used here (only {loaded}); check the CUDA and cuDNN libraries")
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        self._elements = {node.name: _ELEMENTS[node.type] for node in nodes}
        # Later work on the stream follows in order, and the reader of a result waits for the stream.
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, rows: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[], None]:
        """Bind the tensors' addresses."""
        io = self._session.io_binding()
        for bind, tensors in ((io.bind_input, inputs), (io.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(name, self._device, self._index, self._elements[name], list(tensor.shape), tensor.address)
        return lambda: self._session.run_with_iobinding(io, self._options)
