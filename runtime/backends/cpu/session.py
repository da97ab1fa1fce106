"""ONNX Runtime sessions on the CPU, and the buffers bound to them."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.backends import Clock
from runtime.backends.cpu.kv import KVCache
from runtime.backends.cpu.prepacked import PrepackedWeights
from runtime.backends.cpu.signature import Signature, check_signature
from runtime.machine.byte_products import byte_products_overflow
from runtime.machine.processor import physical_cores
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError
from s2d_trt.manifest import Manifest

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}

UNSIGNED_WEIGHTS = "session.x64quantprecision"
"""Option that turns weights of signed bytes into unsigned ones at load, whose products do not overflow on x86-64."""


def session_options(threads: int | None = None, int8: bool = False) -> ort.SessionOptions:
    """Settings measured to be fastest for small calls to several sessions in turn.

    ``int8`` says that the graph multiplies rows by weights of 8 bits, as bundles of earlier versions do; weights of 7
    bits never overflow. Where products overflow, the weights become unsigned, which is exact and 1.4 times slower.
    Where they do not, unsigned weights would make calls several times slower.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # It would keep a plan of memory for each combination of sizes, of which batches have thousands, and saves no time.
    options.enable_mem_pattern = False
    # The threads of idle sessions would otherwise spin on the cores that the running session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(UNSIGNED_WEIGHTS, "1" if int8 and byte_products_overflow() else "0")
    options.log_severity_level = 4  # errors are raised, which is enough
    return options


def multiplies_8_bits(manifest: Manifest) -> bool:
    """Whether a bundle's graphs multiply integer rows by weights of 8 bits."""
    return (manifest.precision, manifest.weight_format) == ("int8", "int8")


def graph_path(bundle: Bundle, graph: str) -> Path:
    """Path of a bundle's graph. Raises BundleError."""
    if graph not in bundle.manifest.graphs:
        raise BundleError(f"{bundle.directory} has no graph {graph}; build the bundle again")
    return bundle.path(bundle.manifest.graphs[graph])


class Engine:
    """One graph in a session, and the buffers bound to it, which all texts share.

    A tensor stays bound until a call wants another one: a call binds only what differs from the call before. Each
    buffer is as large as its largest call so far. Write the inputs, ``run``, read the outputs; the next call overwrites
    both.
    """

    MOST_BUFFERS = 4096

    def __init__(
        self, bundle: Bundle, graph: str, signature: Signature, clock: Clock, threads: int | None = None
    ) -> None:
        path = graph_path(bundle, graph)
        make_options = partial(session_options, threads, multiplies_8_bits(bundle.manifest))
        form = make_options().get_session_config_entry(UNSIGNED_WEIGHTS)
        try:
            self._session = PrepackedWeights(bundle, graph, form).session(path, make_options)
        except Exception as cause:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"{path} cannot be loaded ({cause}); build the bundle again") from cause
        check_signature(self._session, signature, str(path))
        self._path = path
        self._clock, self._io = clock, self._session.io_binding()
        inputs = self._session.get_inputs()
        self._inputs = frozenset(node.name for node in inputs)
        self.shapes: dict[str, list[int | str]] = {node.name: node.shape for node in inputs}
        """Of the inputs; a size that varies has a name."""
        self._blocks: dict[str, np.ndarray] = {
            node.name: np.zeros(0, _DTYPES[node.type]) for node in (*inputs, *self._session.get_outputs())
        }
        self._buffers: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray, ort.OrtValue]] = {}
        self._bound: dict[str, object] = {}

    def buffer(self, name: str, *shape: int) -> np.ndarray:
        """The buffer of an input or output in this shape, bound."""
        array, value = self._buffers.get((name, shape)) or self._shaped(name, shape)
        if self._bound.get(name) is not value:
            self._bind(name, value)
            self._bound[name] = value
        return array

    def bind_cache(self, cache: KVCache, bucket: int, layers: range, lane: int | None = None) -> None:
        """Bind the first ``bucket`` slots of a cache of ``layers`` as past and present: updates are in place."""
        key, views = f"{names.PAST}{lane}", cache.views(bucket)
        if self._bound.get(key) is views:
            return
        self._bound[key] = views
        parts = ((layer, part) for layer in layers for part in ("key", "value"))
        for (layer, part), view in zip(parts, views, strict=True):
            self._bind(names.past(layer, part, lane), view)
            self._bind(names.present(layer, part, lane), view)

    def run(self) -> None:
        """Run the graph. Raises BundleError."""
        started = time.perf_counter()
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as cause:
            raise BundleError(f"{self._path} cannot run ({cause}); build the bundle again") from cause
        self._clock.seconds += time.perf_counter() - started

    def _bind(self, name: str, value: ort.OrtValue) -> None:
        (self._io.bind_ortvalue_input if name in self._inputs else self._io.bind_ortvalue_output)(name, value)

    def _shaped(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, ort.OrtValue]:
        size, block = math.prod(shape), self._blocks[name]
        if len(self._buffers) == self.MOST_BUFFERS:
            self._buffers.clear()
        if size > block.size:
            self._blocks[name] = block = np.zeros(size, block.dtype)
            self._buffers = {key: kept for key, kept in self._buffers.items() if key[0] != name}
        array = block[:size].reshape(shape)
        self._buffers[name, shape] = array, ort.OrtValue.ortvalue_from_numpy(array)
        return self._buffers[name, shape]
