"""ONNX Runtime sessions on the CPU, and the buffers bound to them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.backends import Clock
from runtime.backends.processor import physical_cores
from runtime.kv import KVCache
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of the buffers of one call."""


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Settings measured to be fastest for small calls to several sessions in turn."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Idle sessions would otherwise spin and steal cores from the one that runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def graph_path(bundle: Bundle, graph: str) -> Path:
    """Where a bundle keeps a graph. Raises BundleError."""
    if graph not in bundle.manifest.graphs:
        raise BundleError(f"{bundle.directory} has no graph {graph}; build the bundle again")
    return bundle.path(bundle.manifest.graphs[graph])


class Engine:
    """One compiled graph; any number of bindings can take turns on it."""

    def __init__(self, bundle: Bundle, graph: str, threads: int | None = None) -> None:
        path = graph_path(bundle, graph)
        try:
            self._session = ort.InferenceSession(str(path), session_options(threads), ["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"{path} cannot be loaded ({cause}); build the bundle again") from cause

    def binding(self, clock: Clock) -> Binding:
        """A set of buffers to run this graph on; its time is added to ``clock``."""
        return Binding(self._session, clock)


class Binding:
    """Buffers bound to a graph's inputs and outputs; the graph reads and writes them in place.

    Each name has one block of memory, as large as its largest shape so far: a call allocates nothing.
    """

    def __init__(self, session: ort.InferenceSession, clock: Clock) -> None:
        self._session, self._clock = session, clock
        self._io = session.io_binding()
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self._bind_value = {node.name: self._io.bind_ortvalue_input for node in inputs}
        self._bind_value |= {node.name: self._io.bind_ortvalue_output for node in outputs}
        self._dtypes = {node.name: _DTYPES[node.type] for node in (*inputs, *outputs)}
        self._blocks: dict[str, np.ndarray] = {name: np.zeros(0, dtype) for name, dtype in self._dtypes.items()}
        self._views: dict[str, dict[tuple[int, ...], tuple[np.ndarray, ort.OrtValue]]] = {
            name: {} for name in self._dtypes
        }
        self._shapes: Shapes = ()
        self._arrays: list[np.ndarray] = []
        self._caches: list[ort.OrtValue] = []
        self._bucket = 0

    def buffers(self, shapes: Shapes) -> list[np.ndarray]:
        """Buffers of these names and shapes, bound: fill the inputs before ``run``, read the outputs after it.

        The next call for the same name gives the same memory. The same ``shapes`` object again costs nothing.
        """
        if shapes is not self._shapes:
            self._arrays = []
            for name, shape in shapes:
                array, value = self._views[name].get(shape) or self._view(name, shape)
                self._bind_value[name](name, value)
                self._arrays.append(array)
            self._shapes = shapes
        return self._arrays

    def _view(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, ort.OrtValue]:
        size = math.prod(shape)
        if size > self._blocks[name].size:
            self._blocks[name] = np.zeros(size, self._dtypes[name])
            self._views[name].clear()
        array = self._blocks[name][:size].reshape(shape)
        view = (array, ort.OrtValue.ortvalue_from_numpy(array))
        self._views[name][shape] = view
        return view

    def bind_cache(self, cache: KVCache, layers: range, bucket: int) -> None:
        """Bind the first ``bucket`` slots of every layer's cache as both past and present: updates are in place."""
        if bucket == self._bucket:
            return
        bound = []
        for index, layer in enumerate(layers):
            for part in ("key", "value"):
                value = ort.OrtValue.ortvalue_from_numpy(cache.view(index, part, bucket))
                for name in (names.past(layer, part), names.present(layer, part)):
                    self._bind_value[name](name, value)
                bound.append(value)
        # ONNX Runtime borrows the memory; the cache itself outlives the binding in its slot.
        self._caches, self._bucket = bound, bucket

    def run(self) -> None:
        """Run the graph on what is bound."""
        started = time.perf_counter()
        self._session.run_with_iobinding(self._io)
        self._clock.seconds += time.perf_counter() - started
