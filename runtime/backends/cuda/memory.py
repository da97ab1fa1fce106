"""What the contexts ask of a GPU, and blocks of memory that both sides know by field."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

ALIGNMENT = 256
"""Bytes to which TensorRT wants every tensor aligned."""


@dataclass(frozen=True, slots=True)
class Memory:
    """``size`` bytes at ``address``; ``owner`` keeps them allocated."""

    address: int
    size: int
    owner: Any

    def part(self, offset: int, size: int) -> Memory:
        """``size`` bytes from ``offset`` on."""
        assert 0 <= offset <= offset + size <= self.size
        return Memory(self.address + offset, size, self.owner)

    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes themselves, where they are in the host's memory."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))


class Gpu(Protocol):
    """One GPU and one queue of work on it, in order."""

    name: str
    index: int
    capability: str
    """Compute capability, like ``8.9``."""
    sent: int
    """Pieces of work submitted so far."""
    done: int
    """Pieces of work known to be done."""

    @property
    def stream(self) -> int:
        """Handle of the CUDA stream that work goes to now."""

    def allocate(self, size: int) -> Memory:
        """Zeroed memory on the device, aligned. Raises S2DError where there is not enough."""

    def pinned(self, size: int) -> Memory:
        """Zeroed memory of the host that the device copies from and to on its own."""

    def copy(self, destination: Memory, source: Memory) -> None:
        """Queue a copy between blocks of equal size, wherever they are."""

    def clear(self, memory: Memory) -> None:
        """Queue the zeroing of a block on the device."""

    def launch(self, kernel: str, threads: int, *arguments: int) -> None:
        """Queue a kernel of this package; ``threads`` is its last argument."""

    def condition(self) -> int:
        """Handle of a new condition of the graph that is being recorded; 0 where none is."""

    def when(self, condition: int, steps: Callable[[], None]) -> None:
        """Queue ``steps`` in a node that runs only if a kernel has set ``condition``; with 0, like any others."""

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        """Run ``steps``, which queue work, once; what comes back queues the same work again in one launch."""

    def wait(self) -> None:
        """Until all that was queued is done."""


Field = tuple[npt.DTypeLike, tuple[int, ...]]
"""Element type and shape of a field of a block."""


def aligned(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Staging:
    """Named arrays in pinned memory and their mirror on the device, copied either way in one piece."""

    def __init__(self, gpu: Gpu, fields: Mapping[str, Field]) -> None:
        self._gpu, self._sent = gpu, 0
        sizes = {name: np.dtype(dtype).itemsize * math.prod(shape) for name, (dtype, shape) in fields.items()}
        total = sum(map(aligned, sizes.values()))
        self.host, self.device = gpu.pinned(total), gpu.allocate(total)
        memory, offset = self.host.array(), 0
        self.arrays: dict[str, np.ndarray] = {}
        self.addresses: dict[str, int] = {}
        for name, (dtype, shape) in fields.items():
            self.arrays[name] = memory[offset : offset + sizes[name]].view(dtype).reshape(shape)
            self.addresses[name] = self.device.address + offset
            offset += aligned(sizes[name])

    def open(self) -> None:
        """Wait, if need be, until the last transfer has read the host's side, so that it can be written again."""
        if self._sent > self._gpu.done:
            self._gpu.wait()

    def close(self) -> None:
        """The host's side is written, and the work that reads it queued."""
        self._sent = self._gpu.sent

    def upload(self) -> None:
        """Queue the copy to the device."""
        self._gpu.copy(self.device, self.host)

    def download(self) -> None:
        """Queue the copy to the host."""
        self._gpu.copy(self.host, self.device)
