"""ONNX Runtime sessions on the CPU, and the buffers bound to them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.backends import Clock
from runtime.backends.cpu.kv import KVCache
from runtime.backends.cpu.prepacked import PrepackedWeights
from runtime.machine.byte_products import byte_products_overflow
from runtime.machine.processor import physical_cores
from s2d_trt import names
from s2d_trt.bundle import Bundle, Manifest
from s2d_trt.errors import BundleError

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}

UNSIGNED_WEIGHTS = "session.x64quantprecision"
"""Option that turns weights of signed bytes into unsigned ones at load, whose products do not overflow on x86-64."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of the buffers of one call."""


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
    # The threads of idle sessions would otherwise spin on the cores that the running session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(UNSIGNED_WEIGHTS, "1" if int8 and byte_products_overflow() else "0")
    options.log_severity_level = 3  # errors
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
    """One graph in a session, for any number of bindings in turn."""

    def __init__(self, bundle: Bundle, graph: str, threads: int | None = None) -> None:
        path, options = graph_path(bundle, graph), session_options(threads, multiplies_8_bits(bundle.manifest))
        form = options.get_session_config_entry(UNSIGNED_WEIGHTS)
        try:
            self._session = PrepackedWeights(bundle, graph, form).session(path, options)
        except Exception as cause:  # ONNX Runtime raises classes of its own that share no public base
            raise BundleError(f"{path} cannot be loaded ({cause}); build the bundle again") from cause

    def binding(self, clock: Clock, shapes: Callable[..., Shapes], cache: LayerCache | None = None) -> Binding:
        """Buffers to run this graph on; ``clock`` counts the time of its runs."""
        return Binding(self._session, clock, shapes, cache)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """The cache of a graph: the model's ``layers`` are the first of ``cache``, in order."""

    cache: KVCache
    layers: range

    def views(self, bucket: int) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """For each layer's keys and values: the names of past and present, and the first ``bucket`` slots."""
        for index, layer in enumerate(self.layers):
            for part in ("key", "value"):
                yield (names.past(layer, part), names.present(layer, part)), self.cache.view(index, part, bucket)


class Call:
    """The bound tensors of calls of one size: write the inputs among ``buffers``, ``run``, read the outputs."""

    def __init__(self, session: ort.InferenceSession, inputs: frozenset[str], clock: Clock) -> None:
        self._session, self._inputs, self._clock = session, inputs, clock
        self._io = session.io_binding()
        self._values: list[ort.OrtValue] = []
        self.buffers: list[np.ndarray] = []

    def bind(self, value: ort.OrtValue, *names: str) -> None:
        """Bind ``value``, whose array must outlive this call, to inputs and outputs of these names."""
        self._values.append(value)
        for name in names:
            if name in self._inputs:
                self._io.bind_ortvalue_input(name, value)
            else:
                self._io.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """Run the graph."""
        started = time.perf_counter()
        self._session.run_with_iobinding(self._io)
        self._clock.seconds += time.perf_counter() - started


class Binding:
    """A graph's inputs and outputs in buffers, each as large as its largest call so far.

    ``shapes`` gives the names and shapes of the buffers for a call of some sizes. The first of these sizes is the
    number of slots of ``cache`` that are bound, as past and as present: updates are in place. Calls are kept, so that
    the next one of the same sizes allocates and binds nothing.
    """

    MOST_CALLS = 512

    def __init__(
        self, session: ort.InferenceSession, clock: Clock, shapes: Callable[..., Shapes], cache: LayerCache | None
    ) -> None:
        self._session, self._clock, self._shapes, self._cache = session, clock, shapes, cache
        inputs = session.get_inputs()
        nodes = (*inputs, *session.get_outputs())
        self._inputs = frozenset(node.name for node in inputs)
        self._blocks: dict[str, np.ndarray] = {node.name: np.zeros(0, _DTYPES[node.type]) for node in nodes}
        self._calls: dict[tuple[int, ...], Call] = {}
        self._views: dict[int, list[tuple[tuple[str, str], ort.OrtValue]]] = {}

    def call(self, *sizes: int) -> Call:
        """The call of these sizes. All calls share their buffers: the next one overwrites them."""
        return self._calls.get(sizes) or self._bound(sizes)

    def _bound(self, sizes: tuple[int, ...]) -> Call:
        shapes = self._shapes(*sizes)
        self._make_room(shapes)
        call = Call(self._session, self._inputs, self._clock)
        for name, shape in shapes:
            array = self._blocks[name][: math.prod(shape)].reshape(shape)
            call.bind(ort.OrtValue.ortvalue_from_numpy(array), name)
            call.buffers.append(array)
        if self._cache is not None:
            for names_, view in self._cached(self._cache, sizes[0]):
                call.bind(view, *names_)
        self._calls[sizes] = call
        return call

    def _cached(self, cache: LayerCache, bucket: int) -> list[tuple[tuple[str, str], ort.OrtValue]]:
        """Views of the cache for all calls of a bucket; to wrap them takes longer than to bind them."""
        if bucket not in self._views:
            self._views[bucket] = [(pair, ort.OrtValue.ortvalue_from_numpy(view)) for pair, view in cache.views(bucket)]
        return self._views[bucket]

    def _make_room(self, shapes: Shapes) -> None:
        """Grow buffers that are too small, and drop the calls bound to the old ones, or all where they are too many."""
        needed = {name: math.prod(shape) for name, shape in shapes}
        grown = {name: size for name, size in needed.items() if size > self._blocks[name].size}
        for name, size in grown.items():
            block = np.zeros(size, self._blocks[name].dtype)
            block[: self._blocks[name].size] = self._blocks[name]
            self._blocks[name] = block
        if grown or len(self._calls) == self.MOST_CALLS:
            self._calls.clear()
