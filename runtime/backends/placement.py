"""Which backend runs a bundle, and on which device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.backends import Backend
from runtime.backends.cpu.backend import OnnxRuntime
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields
from s2d_trt.memory import check_memory

BackendName = Literal["auto", "onnxruntime", "tensorrt"]
BACKENDS: tuple[str, ...] = get_args(BackendName)


@dataclass(frozen=True, slots=True)
class Device:
    """``kind`` is ``cpu`` or ``cuda``, ``index`` counts the GPUs."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """``cpu``, ``cuda`` or ``cuda:1``. Raises OptionError."""
        kind, separator, index = text.partition(":")
        if kind == "cpu" and not separator:
            return cls("cpu")
        if kind == "cuda" and (not separator or (index.isascii() and index.isdigit())):
            return cls("cuda", int(index or 0))
        raise OptionError(f"{text!r} is not a device; use cpu, cuda or cuda:1")

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")
CUDA = Device("cuda")


@dataclass(frozen=True, slots=True)
class Placement:
    """What the user asks for; with ``auto`` and None the bundle decides.

    A bundle built for TensorRT runs on the first GPU, any other in ONNX Runtime on the CPU. ``threads`` None means the
    physical cores. ``cuda_graphs`` False makes TensorRT queue every kernel at each call, for debugging.
    ``device_cascade`` lets CUDA graphs decide which exit answers, if the policy has fixed thresholds.
    """

    backend: BackendName = "auto"
    device: Device | None = None
    threads: int | None = None
    cuda_graphs: bool = True
    device_cascade: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        processors = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= processors:
            raise OptionError(f"--threads {self.threads} must lie between 1 and the {processors} processors here")

    def choose(self, bundle: Bundle) -> tuple[BackendName, Device]:
        """The backend and the device for ``bundle``. Raises OptionError where the options do not fit it."""
        manifest = bundle.manifest
        static = manifest.cache.layout == "BHSD"
        name = self.backend
        if name == "auto":
            name = "tensorrt" if static and self.device != CPU else "onnxruntime"
        device = self.device or (CUDA if name == "tensorrt" else CPU)
        for option, given in (("--device-cascade", self.device_cascade), ("--no-cuda-graphs", not self.cuda_graphs)):
            if given and name != "tensorrt":
                raise OptionError(f"{option} is for TensorRT, and bundle {manifest.name} runs without; leave it out")
        if name == "tensorrt" and device == CPU:
            raise OptionError("TensorRT runs on a GPU; leave --device out, or take --backend onnxruntime")
        if name == "tensorrt" and not manifest.plans:
            remedy = (
                f"compile them with python -m export.compile {bundle.directory}"
                if static
                else "build it with --backend tensorrt, or leave --backend out"
            )
            raise OptionError(f"bundle {manifest.name} holds no TensorRT plans; {remedy}")
        if device == CPU and static:
            raise OptionError(
                f"bundle {manifest.name} has graphs for a GPU (layout BHSD); take --device cuda, or build it with"
                " --backend onnxruntime for the CPU"
            )
        if device != CPU and manifest.precision == "int8":
            raise OptionError(
                f"bundle {manifest.name} computes in int8 rows, which is for CPUs; take --device cpu, or build it"
                " with --backend tensorrt --weights int8"
            )
        if device == CPU and manifest.precision not in ("fp32", "int8"):
            raise OptionError(
                f"bundle {manifest.name} computes in {manifest.precision}, which is for GPUs; take --device cuda, or"
                " build it without --precision for the CPU"
            )
        return name, device

    def open_backend(self, bundle: Bundle) -> Backend:
        """The backend that loads ``bundle``.

        Raises:
            OptionError: the options do not fit the bundle, or a library or device that they need is missing.
        """
        name, device = self.choose(bundle)
        if device == CPU:
            weights = bundle.manifest.files[bundle.manifest.weights]
            check_memory(weights.bytes, f"bundle {bundle.manifest.name}")
            return OnnxRuntime(self.threads)
        # Only the extra [gpu] installs what these modules import.
        from runtime.backends.cuda.device import open_gpu

        gpu = open_gpu(device.index)
        if name == "tensorrt":
            from runtime.backends.tensorrt.backend import TensorRT

            return TensorRT(gpu, self.cuda_graphs, self.device_cascade)
        from runtime.backends.cuda.onnxruntime import OnnxRuntimeCuda

        return OnnxRuntimeCuda(gpu)
