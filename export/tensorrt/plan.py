"""ONNX graph -> plan, with TensorRT or TensorRT-RTX: one code path, and RTX needs neither a GPU nor a driver."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.graph import LOGIT_ROWS
from export.lanes import QUERY
from export.layout import LANE_ROWS, LANES
from export.tensorrt.log import BuildLog
from s2d_trt.errors import OptionError, S2DError
from s2d_trt.manifest import SCRATCH_ROWS, QueryProfile

FLAVORS = ("tensorrt", "tensorrt_rtx")
"""Names of the Python modules, which are also what a manifest calls the builders."""
OLDEST = {"tensorrt": (10, 15), "tensorrt_rtx": (1, 5)}
"""First versions with attention, rotary embedding and key/value updates as layers."""
INSTALL = "pip install -e '.[tensorrt]' in the checkout (TensorRT-RTX, needs no GPU), or install NVIDIA's tensorrt"


class CompileError(S2DError):
    """A graph could not be compiled; nothing was written. The message has the builder's own reason."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """One graph to compile. ``model`` has its external data beside it; ``out`` is where the plan goes.

    ``lanes`` is the largest number of texts in one call.

    ``decomposable`` lets attention be made of simpler layers, which float32 needs: no kernel of its own serves it.
    """

    graph: str
    model: Path
    out: Path
    flavor: str
    profiles: tuple[QueryProfile, ...]
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    decomposable: bool = False
    lanes: int = 1
    log_level: str = "none"
    progress: bool = False


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Sizes of a plan: bytes on disk, of its weights and of the largest profile's activations on the device."""

    bytes: int
    weight_bytes: int
    activation_bytes: int
    seconds: float


def find_flavor(requested: str | None = None) -> tuple[str, str]:
    """The builder to use and its version: the one asked for, else TensorRT where there is a GPU, else TensorRT-RTX.

    Raises:
        OptionError: it is not installed, or too old.
    """
    gpu = gpu_compute_capability()
    problems = []
    for flavor in (requested,) if requested else FLAVORS if gpu else FLAVORS[::-1]:
        try:
            version = str(_load(flavor).__version__)
        except (ImportError, OSError, AttributeError) as cause:
            problems.append(f"{flavor}: {cause}")
            continue
        if flavor == "tensorrt" and not gpu:
            problems.append("tensorrt compiles only on a machine with a GPU")
            continue
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found >= OLDEST[flavor]:
            return flavor, version
        oldest = ".".join(map(str, OLDEST[flavor]))
        problems.append(f"{flavor} {version} is older than {oldest}")
    raise OptionError(f"no TensorRT that can compile ({'; '.join(problems)}); {INSTALL}")


def check_capabilities(flavor: str, capabilities: tuple[str, ...]) -> None:
    """Check that ``flavor`` can compile for each of ``capabilities``, like ``8.9``.

    Raises:
        OptionError: it cannot; the message lists what it can.
    """
    if not capabilities:
        return
    if flavor == "tensorrt":
        raise OptionError(
            "--compute-capability is for tensorrt_rtx; tensorrt compiles for the GPU that is here: leave it out, or"
            " take --trt-flavor tensorrt_rtx"
        )
    known = _capabilities(_load(flavor))
    unknown = [capability for capability in capabilities if capability not in known]
    if unknown:
        raise OptionError(
            f"{flavor} does not compile for compute capability {unknown[0]}; it supports {', '.join(known)}"
            + (": take --trt-flavor tensorrt on a machine with that GPU" if flavor == "tensorrt_rtx" else "")
        )


def gpu_compute_capability() -> str | None:
    """The first GPU's compute capability, like ``8.9``, from the driver; None where there is neither."""
    try:
        cuda: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    # 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR; device 0.
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    )
    return None if failed else f"{major.value}.{minor.value}"


def compile_plan(request: PlanRequest) -> PlanReport:
    """Compile one graph and write its plan to ``request.out``: the same bytes again where the process is a new one.

    Raises:
        CompileError: the graph has something that this TensorRT refuses, or memory ran out.
    """
    trt: Any = _load(request.flavor)
    # TensorRT orders some things by their addresses. A new thread allocates from an arena of its own, so the addresses
    # do not depend on what Python freed before; a path without its directory has the same length each time.
    with ThreadPoolExecutor(1) as thread:
        try:
            compiling = thread.submit(_compile, trt, request)
        except RuntimeError:  # there is no memory for a thread
            raise out_of_memory(request.graph) from None
        return compiling.result()


def _compile(trt: Any, request: PlanRequest) -> PlanReport:
    began = time.perf_counter()
    log = BuildLog(request.graph, request.log_level, request.progress)
    logger = log.logger(trt)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        with contextlib.chdir(request.model.parent):
            if not parser.parse_from_file(request.model.name):
                raise _refused(request, _parser_error(parser))
        if request.decomposable:
            _decompose(trt, network)
        config = _config(trt, builder, network, request)
        config.progress_monitor = log.monitor(trt)
        plan = builder.build_serialized_network(network, config)
    except MemoryError:
        raise out_of_memory(request.graph) from None
    finally:
        log.close()
    if plan is None:
        raise out_of_memory(request.graph) if log.out_of_memory else _refused(request, log.reason)
    with request.out.open("wb") as file:
        file.write(plan)
    size = request.out.stat().st_size
    return PlanReport(size, log.weight_bytes or size, log.activation_bytes, time.perf_counter() - began)


def out_of_memory(graph: str) -> CompileError:
    """The error for a build that outgrew this machine."""
    return CompileError(
        f"not enough memory to compile {graph}, which takes about 0.3 GB and three times its weights; close other"
        " programs, put exits closer together, use --weights int8, or compile on a larger machine"
    )


def _load(flavor: str) -> ModuleType:
    return importlib.import_module(flavor)


def _capabilities(trt: Any) -> dict[str, Any]:
    """``8.9`` -> ``ComputeCapability.SM89``."""
    members = getattr(trt, "ComputeCapability", None)
    listed = members.__members__.items() if members else ()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in listed if name.startswith("SM")}


def _config(trt: Any, builder: Any, network: Any, request: PlanRequest) -> Any:
    config = builder.create_builder_config()
    if request.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if request.compute_capabilities:
        known = _capabilities(trt)
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, capability in enumerate(request.compute_capabilities):
            config.set_compute_capability(known[capability], index)
    for profile in request.profiles:
        shapes, lengths = builder.create_optimization_profile(), _lengths(profile, request.lanes)
        for tensor in (network.get_input(index) for index in range(network.num_inputs)):
            sizes = [
                lengths[tensor.get_dimension_name(axis)] if size == -1 else (size,) * 3
                for axis, size in enumerate(tuple(tensor.shape))
            ]
            if -1 in tuple(tensor.shape):
                shapes.set_shape(tensor.name, *zip(*sizes, strict=True))
        config.add_optimization_profile(shapes)
    return config


def _lengths(profile: QueryProfile, lanes: int) -> dict[str, tuple[int, int, int]]:
    """Smallest, best and largest size of each axis that varies."""
    return {
        QUERY: (profile.min, profile.opt, profile.max),
        LOGIT_ROWS: (1, profile.opt, profile.max),
        LANES: (1, lanes, lanes),
        LANE_ROWS: (1, max(profile.opt // lanes, 1), min(profile.max, SCRATCH_ROWS)),
    }


def _decompose(trt: Any, network: Any) -> None:
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer
            layer.attention.decomposable = True


def _parser_error(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors) or "no reason"


def _refused(request: PlanRequest, reason: str) -> CompileError:
    return CompileError(
        f"{request.flavor} refuses {request.graph} ({reason}); look closer with --builder-log verbose, and find the"
        f" smallest graph that fails with polygraphy debug reduce {request.model.name}"
    )
