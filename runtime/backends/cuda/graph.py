"""What a backend makes of a bundle's graph on a GPU, and the memory layout of the caches that graphs update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.backends.cuda.memory import Gpu, Memory, Staging, aligned
from s2d_trt import names
from s2d_trt.bundle import SCRATCH_ROWS, Manifest

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
WORD = 4
"""Bytes of a word; the kernels move rows word by word."""
VIEW = 256
"""In layout BSH a graph takes a prefix of its caches, which grows by this many slots."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Address and shape of a graph's input or output in one kind of call."""

    address: int
    shape: tuple[int, ...]


class DeviceGraph(Protocol):
    """One graph of a bundle, loaded on a GPU."""

    max_rows: int
    """Most rows in one call."""
    edges: tuple[int, ...]
    """Numbers of rows that the graph was tuned for, or above which it takes other kernels."""
    recordable: bool
    """Whether calls may be recorded into a CUDA graph."""

    def bind(self, rows: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[], None]:
        """What queues this graph on the GPU's stream for calls of ``rows`` rows with these tensors."""


@dataclass(frozen=True, slots=True)
class CacheForm:
    """``planes`` heads of ``[slots, row_bytes]`` for the key and again for the value of each layer.

    In layout BSH all heads of a row lie side by side: one plane.
    """

    layout: str
    planes: int
    slots: int
    width: int
    row_bytes: int

    @classmethod
    def of(cls, manifest: Manifest) -> CacheForm:
        """The form of a bundle's caches."""
        spec, element = manifest.model, ELEMENT_BYTES[manifest.precision]
        if manifest.cache.layout == "BHSD":
            planes, slots, width = spec.num_key_value_heads, manifest.cache.slots, spec.head_dim
        else:
            slots = -(-(manifest.cache.max_length + SCRATCH_ROWS) // VIEW) * VIEW
            planes, width = 1, spec.kv_width
        return cls(manifest.cache.layout, planes, slots, width, width * element)

    def view(self, stop: int) -> int:
        """How many slots a call binds that uses the slots before ``stop``."""
        return self.slots if self.layout == "BHSD" else min(self.slots, -(-stop // VIEW) * VIEW)

    def shape(self, view: int) -> tuple[int, ...]:
        """Shape of one key or value cache."""
        return (1, self.planes, self.slots, self.width) if self.layout == "BHSD" else (1, view, self.width)


class DeviceCache:
    """Keys and values of some layers in one zeroed block of device memory (a NaN in a masked slot would leak)."""

    def __init__(self, gpu: Gpu, form: CacheForm, layers: range) -> None:
        self._gpu, self._form, self._layers = gpu, form, layers
        self._stride = aligned(form.planes * form.slots * form.row_bytes)
        self._block: Memory = gpu.allocate(2 * len(layers) * self._stride)
        self._moves = Staging(gpu, {"move": (np.int64, (2 + SCRATCH_ROWS,))})

    def tensors(self, view: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Past inputs and present outputs; both are the same memory, so that updates are in place."""
        past, present = {}, {}
        for index, layer in enumerate(self._layers):
            for offset, part in enumerate(("key", "value")):
                tensor = Tensor(self._block.address + (2 * index + offset) * self._stride, self._form.shape(view))
                past[names.past(layer, part)] = present[names.present(layer, part)] = tensor
        return past, present

    def clear(self) -> None:
        """Zero all slots."""
        self._gpu.clear(self._block)

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move rows ``sources`` (rising, none below its destination) to slots ``start ..`` of every layer."""
        form, moves = self._form, self._moves
        moves.open()
        move = moves.arrays["move"]
        move[:2] = start, len(sources)
        move[2 : 2 + len(sources)] = sources
        moves.upload()
        words, planes = form.row_bytes // WORD, 2 * len(self._layers) * form.planes
        self._gpu.launch(
            "move_rows",
            planes * words,
            self._block.address,
            moves.addresses["move"],
            words,
            form.slots,
            form.planes,
            self._stride // WORD,
        )
        moves.close()
