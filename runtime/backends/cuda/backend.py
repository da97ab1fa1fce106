"""The base of the GPU backends: each loads a bundle's graphs in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod

from runtime.backends.cuda.draft import GpuDraft
from runtime.backends.cuda.graph import DeviceGraph
from runtime.backends.cuda.memory import Gpu
from runtime.backends.cuda.target import GpuTarget
from s2d_trt import names
from s2d_trt.bundle import Bundle


class GpuBackend(ABC):
    """Loads bundles with one library, ``name``. ``device_cascade`` lets the GPU decide which exit answers."""

    name: str

    def __init__(self, gpu: Gpu, device_cascade: bool = False) -> None:
        self.gpu, self._device_cascade = gpu, device_cascade

    @abstractmethod
    def load(self, bundle: Bundle, graph: str) -> DeviceGraph:
        """Load one graph. Raises BundleError where its file does not fit this backend or this GPU."""

    def draft(self, bundle: Bundle) -> GpuDraft:
        """Load the segments and the head. Raises BundleError."""
        segments = [self.load(bundle, names.segment(index)) for index in range(len(bundle.manifest.exits))]
        head = self.load(bundle, names.HEAD)
        return GpuDraft(self.gpu, bundle.manifest, segments, head, self.name, self._device_cascade)

    def target(self, bundle: Bundle) -> GpuTarget:
        """Load the graph. Raises BundleError."""
        return GpuTarget(self.gpu, bundle.manifest, self.load(bundle, names.TARGET), self.name)
