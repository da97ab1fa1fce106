"""TensorRT and TensorRT-RTX: a plan for each graph, bound once for each kind of call, recorded in a CUDA graph."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from runtime.backends.cuda.backend import GpuBackend
from runtime.backends.cuda.graph import Tensor
from runtime.backends.cuda.memory import Gpu
from runtime.backends.tensorrt.plans import check_plan, compile_command, find_plan, import_flavor, installed_flavors
from runtime.backends.tensorrt.runtime_cache import RuntimeCacheFile
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError, S2DError
from s2d_trt.manifest import PlanEntry


class TensorRT(GpuBackend):
    """Plans on ``gpu``; ``cuda_graphs`` False queues every kernel again at each call."""

    name = "TensorRT"

    def __init__(self, gpu: Gpu, cuda_graphs: bool = True, device_cascade: bool = False) -> None:
        super().__init__(gpu, device_cascade)
        self._cuda_graphs = cuda_graphs

    def load(self, bundle: Bundle, graph: str) -> Plan:
        """Check a graph's plan against this machine, and load it. Raises BundleError, OptionError."""
        plan = find_plan(bundle, graph)
        check_plan(bundle, plan, installed_flavors(), self.gpu.name, self.gpu.capability)
        return Plan(self.gpu, import_flavor(plan), bundle, plan, self._cuda_graphs)


class Plan:
    """A deserialized plan.

    An execution context must not change once a CUDA graph was recorded from it, so each kind of call has a context of
    its own. Contexts run one after another and share one block of memory for activations.
    """

    def __init__(self, gpu: Gpu, trt: Any, bundle: Bundle, plan: PlanEntry, cuda_graphs: bool) -> None:
        self._gpu, self._trt = gpu, trt
        self._log = make_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._load(bundle, plan)
        self._lasts = [profile.max for profile in plan.profiles]
        self.max_rows = self._lasts[-1]
        self.edges = tuple(self._lasts)
        self.recordable = cuda_graphs and not plan.weight_streaming
        self._names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._check_tensors(bundle, plan)
        if plan.weight_streaming:
            # Before any context exists; the automatic budget leaves room for activations.
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
        self._activations = gpu.allocate(int(self._engine.device_memory_size_v2))
        self._cache = RuntimeCacheFile(bundle, plan, gpu)
        self._config = self._runtime_config()

    def _load(self, bundle: Bundle, plan: PlanEntry) -> Any:
        path = bundle.path(plan.file)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if problem := invalidity(self._trt, self._runtime, data):
                raise BundleError(
                    f"{path} cannot be used on {self._gpu.name} ({problem}); compile it again with"
                    f" {compile_command(bundle, '--trt-flavor', plan.flavor)}"
                )
            engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BundleError(
                f"{path} cannot be loaded on {self._gpu.name} ({self._log.reason}); free the GPU's memory, or compile"
                f" it again with {compile_command(bundle, '--trt-flavor', plan.flavor)}"
            )
        return engine

    def _check_tensors(self, bundle: Bundle, plan: PlanEntry) -> None:
        """All tensors live on the device, and the caches are updated in place."""
        device = self._trt.TensorLocation.DEVICE
        for name in self._names:
            moved = self._engine.get_tensor_location(name) != device
            copied = name.startswith(names.PAST) and (
                self._engine.get_aliased_input_tensor(names.present_of(name)) != name
            )
            if moved or copied:
                raise BundleError(
                    f"{bundle.path(plan.file)} does not {'keep' if moved else 'update'} {name} in"
                    f" {'device memory' if moved else 'place'}; build the bundle again with --backend tensorrt"
                )

    def _runtime_config(self) -> Any:
        """How contexts are made. RTX compiles kernels on this machine, and does so eagerly: a recorded graph keeps the
        kernels that it was recorded with."""
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        if hasattr(config, "create_runtime_cache"):
            self._cache.open(config)
        return config

    def bind(self, rows: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[], None]:
        """Make an execution context for these tensors. Raises S2DError."""
        gpu, context = self._gpu, self._engine.create_execution_context(self._config)
        if context is None:
            raise S2DError(f"no execution context on {gpu.name} ({self._log.reason}); free the GPU's memory")
        context.set_device_memory(self._activations.address, self._activations.size)
        profile = bisect_left(self._lasts, rows)
        self._must(context.set_optimization_profile_async(profile, gpu.stream), f"profile {profile}")
        for name, tensor in inputs.items():
            self._must(context.set_input_shape(name, tensor.shape), f"shape {tensor.shape} of {name}")
        tensors = {**inputs, **outputs}
        for name in self._names:
            self._must(context.set_tensor_address(name, tensors[name].address), f"address of {name}")
        if missing := context.infer_shapes():
            raise S2DError(f"plan has inputs without a shape ({', '.join(missing)}); build the bundle again")
        gpu.wait()
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(gpu.stream):
            self.recordable = False

        def enqueue() -> None:
            self._must(context.execute_async_v3(gpu.stream), "the call")

        return enqueue

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise S2DError(f"TensorRT refuses {what} ({self._log.reason}); compile the bundle's plans again")


@lru_cache
def make_log(trt: Any) -> Any:
    """A logger that keeps the last error as its ``reason`` and prints nothing.

    One for each flavour: TensorRT keeps using the first logger that it is given.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.reason = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.reason = " ".join(message.split())

    return Log()


def invalidity(trt: Any, runtime: Any, plan: Any) -> str | None:
    """Why this machine cannot load a plan, in the flavour's own terms; None where it can, or the flavour cannot say."""
    if not hasattr(runtime, "get_engine_validity"):
        return None
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return None
    known = trt.EngineInvalidityDiagnostics.__members__.items()
    reasons = [name.lower().replace("_", " ") for name, flag in known if int(diagnostics) & int(flag)]
    return ", ".join(reasons) or "invalid"
