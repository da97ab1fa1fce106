"""Where engines run: which backend, on which device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from runtime.backends import Backend
from runtime.backends.onnxruntime import OnnxRuntime
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError

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
    """What the user asks for; ``auto`` and None leave it to the bundle: TensorRT on the first GPU if it holds plans,
    else ONNX Runtime on the CPU. ``threads`` None means the physical cores."""

    backend: BackendName = "auto"
    device: Device | None = None
    threads: int | None = None

    def choose(self, bundle: Bundle) -> tuple[BackendName, Device]:
        """The backend and the device for ``bundle``. Raises OptionError where the wishes contradict each other."""
        plans = bool(bundle.manifest.plans)
        name = self.backend
        if name == "auto":
            name = "tensorrt" if plans and self.device != CPU else "onnxruntime"
        device = self.device or (CUDA if name == "tensorrt" else CPU)
        if name == "tensorrt":
            if device == CPU:
                raise OptionError("TensorRT runs on a GPU; leave --device out, or take --backend onnxruntime")
            if not plans:
                raise OptionError(
                    f"bundle {bundle.manifest.name} holds no TensorRT plans; compile them with python -m export.compile"
                    f" {bundle.directory}, or take --backend onnxruntime"
                )
        return name, device

    def open_backend(self, bundle: Bundle) -> Backend:
        """The backend that loads ``bundle``.

        Raises:
            OptionError: the wishes contradict each other, or a library or device that they need is not here.
        """
        _, _ = self.choose(bundle)
        return OnnxRuntime(self.threads)
