"""ONNX Runtime on the CPU: the default backend."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.kv import KVCache
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError


def physical_cores() -> int:
    """Cores this process may use, hyper-threads counted once where Linux tells them apart."""
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in available:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Settings measured to be fastest for small calls to several sessions in turn."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Idle sessions would otherwise spin and steal cores from the one that runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return options


@dataclass(slots=True)
class Clock:
    """Seconds spent inside engine calls."""

    seconds: float = 0.0


class Engine:
    """One compiled graph; any number of bindings can take turns on it."""

    def __init__(self, bundle: Bundle, graph: str, threads: int | None = None) -> None:
        path = bundle.path(bundle.manifest.graphs[graph])
        try:
            self._session = ort.InferenceSession(str(path), session_options(threads), ["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"{path} cannot be loaded ({cause}); build the bundle again") from cause

    def binding(self, clock: Clock) -> Binding:
        """A set of buffers to run this graph on; its time is added to ``clock``."""
        return Binding(self._session, clock)


class Binding:
    """Buffers bound to a graph's inputs and outputs; the graph reads and writes them in place."""

    def __init__(self, session: ort.InferenceSession, clock: Clock) -> None:
        self._session, self._clock = session, clock
        self._io = session.io_binding()
        self._inputs = {node.name for node in session.get_inputs()}
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._kept: dict[str, tuple[np.ndarray, ort.OrtValue]] = {}
        self._bucket = 0

    def bind(self, name: str, array: np.ndarray) -> None:
        """Bind a contiguous array to an input or output; binding the same memory again costs nothing."""
        key = (array.__array_interface__["data"][0], array.shape)
        if self._bound.get(name) == key:
            return
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name in self._inputs:
            self._io.bind_ortvalue_input(name, value)
        else:
            self._io.bind_ortvalue_output(name, value)
        self._bound[name] = key
        # ONNX Runtime borrows the memory: it must live as long as the binding.
        self._kept[name] = (array, value)

    def bind_cache(self, cache: KVCache, layers: range, bucket: int) -> None:
        """Bind the first ``bucket`` slots of every layer's cache as both past and present: updates are in place."""
        if bucket == self._bucket:
            return
        for index, layer in enumerate(layers):
            for part in ("key", "value"):
                view = cache.view(index, part, bucket)
                self.bind(names.past(layer, part), view)
                self.bind(names.present(layer, part), view)
        self._bucket = bucket

    def run(self) -> None:
        """Run the graph on what is bound."""
        started = time.perf_counter()
        self._session.run_with_iobinding(self._io)
        self._clock.seconds += time.perf_counter() - started
