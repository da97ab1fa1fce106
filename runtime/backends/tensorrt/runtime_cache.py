"""TensorRT-RTX's runtime cache on disk: the kernels that it compiled for this GPU, for the next start."""

from __future__ import annotations

import atexit
from typing import Any

from runtime.backends.cuda.memory import Gpu
from runtime.machine.cache import cache_directory, write_cache
from s2d_trt.bundle import Bundle
from s2d_trt.manifest import PlanEntry


class RuntimeCacheFile:
    """The cache of one plan on one kind of GPU. No failure is an error: the next start only compiles again."""

    def __init__(self, bundle: Bundle, plan: PlanEntry, gpu: Gpu) -> None:
        digest = bundle.manifest.files[plan.file].sha256[:16]
        name = f"{plan.graph}-{digest}-{gpu.name.replace(' ', '-').replace('/', '-')}.cache"
        self.path = cache_directory() / plan.flavor / name
        self._cache: Any = None
        self._read = b""

    def open(self, config: Any) -> None:
        """Load what an earlier start kept into an engine's runtime configuration, and save it when the process ends."""
        self._cache = config.create_runtime_cache()
        try:
            self._read = self.path.read_bytes()
        except OSError:
            self._read = b""
        if self._read:
            self._cache.deserialize(self._read)  # False if the machine has changed; save() then writes it anew
        config.set_runtime_cache(self._cache)
        atexit.register(self.save)

    def save(self) -> None:
        """Replace the file if the cache has changed; the last of several writers wins."""
        content = bytes(self._cache.serialize())
        if content != self._read:
            write_cache(self.path, content)
            self._read = content
