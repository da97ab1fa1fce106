"""What a backend makes of a bundle's graph on a GPU, and the memory layout of the caches that graphs update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.backends.cuda.memory import Gpu, Memory, Staging
from runtime.backends.cuda.window import Window
from s2d_trt import names
from s2d_trt.manifest import SCRATCH_ROWS, Manifest

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
    """``planes`` heads of ``[slots, row_bytes]`` for the key and again for the value of each layer, for each text.

    In layout BSH all heads of a row lie side by side: one plane. ``lanes`` is the largest number of texts in one call.
    """

    layout: str
    planes: int
    slots: int
    width: int
    row_bytes: int
    lanes: int = 1

    @classmethod
    def of(cls, manifest: Manifest) -> CacheForm:
        """The form of a bundle's caches."""
        spec, element = manifest.model, ELEMENT_BYTES[manifest.precision]
        if manifest.cache.layout == "BHSD":
            planes, slots, width, lanes = spec.num_key_value_heads, manifest.cache.slots, spec.head_dim, manifest.lanes
        else:
            slots = -(-(manifest.cache.max_length + SCRATCH_ROWS) // VIEW) * VIEW
            planes, width, lanes = 1, spec.kv_width, (1,)
        return cls(manifest.cache.layout, planes, slots, width, width * element, max(lanes))

    @property
    def text_bytes(self) -> int:
        """Bytes of one text's keys, or values, of one layer."""
        return self.planes * self.slots * self.row_bytes

    def view(self, stop: int) -> int:
        """How many slots a call binds that uses the slots before ``stop``."""
        return self.slots if self.layout == "BHSD" else min(self.slots, -(-stop // VIEW) * VIEW)

    def shape(self, texts: int, view: int) -> tuple[int, ...]:
        """Shape of the keys, or values, of so many texts in one layer."""
        return (texts, self.planes, self.slots, self.width) if self.layout == "BHSD" else (1, view, self.width)


class DeviceCache:
    """Keys and values of some layers, of ``texts`` texts, zeroed (a NaN in a masked slot would leak).

    A block of device memory has a layer's keys of all texts side by side, another one its values.
    """

    def __init__(self, gpu: Gpu, form: CacheForm, layers: range, texts: int = 1) -> None:
        self._gpu, self._form, self._layers = gpu, form, layers
        self._blocks = [gpu.allocate(texts * form.text_bytes) for _ in range(2 * len(layers))]
        self._addresses = Staging(gpu, {"addresses": (np.int64, (len(self._blocks),))})
        self._note_addresses()

    def _note_addresses(self) -> None:
        self._addresses.open()
        self._addresses.arrays["addresses"][:] = [block.address for block in self._blocks]
        self._addresses.upload()
        self._addresses.close()

    def grow(self, texts: int) -> None:
        """Take memory for more texts, block by block, and copy what there is into it. Raises S2DError."""
        try:
            for index, block in enumerate(self._blocks):
                self._blocks[index] = grown(self._gpu, block, texts * self._form.text_bytes)
        finally:
            self._note_addresses()

    def _parts(self, window: Window) -> list[Memory]:
        size = self._form.text_bytes
        return [block.part(window.first * size, window.count * size) for block in self._blocks]

    def tensors(self, window: Window, view: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Past inputs and present outputs; both are the same memory, so that updates are in place."""
        parts, shape = iter(self._parts(window)), self._form.shape(window.count, view)
        past, present = {}, {}
        for layer in self._layers:
            for part in ("key", "value"):
                tensor = Tensor(next(parts).address, shape)
                past[names.past(layer, part)] = present[names.present(layer, part)] = tensor
        return past, present

    def clear(self, text: int) -> None:
        """Zero all slots of a text."""
        for part in self._parts(Window(text, 1)):
            self._gpu.clear(part)

    def move(self, text: int, move: Staging, sources: np.ndarray, start: int) -> None:
        """Move rows ``sources`` (rising, none below its destination) of a text to slots ``start ..`` of every layer.

        ``move`` is memory for their numbers.
        """
        form, count = self._form, len(sources)
        move.open()
        rows = move.arrays["move"]
        rows[:3] = text * form.planes, start, count
        rows[3 : 3 + count] = sources
        move.upload()
        words = form.row_bytes // WORD
        self._gpu.launch(
            "move_rows",
            len(self._blocks) * form.planes * words,
            self._addresses.device.address,
            move.addresses["move"],
            words,
            form.slots,
            form.planes,
        )
        move.close()


def grown(gpu: Gpu, memory: Memory, size: int) -> Memory:
    """A larger block that begins with what ``memory`` holds. Raises S2DError."""
    larger = gpu.allocate(size)
    gpu.copy(larger.part(0, memory.size), memory)
    return larger
