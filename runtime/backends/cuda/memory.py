"""What the contexts ask of a GPU, and blocks of named fields that host and device share."""

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
        """The bytes, if they are in the host's memory."""
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
        """Zeroed, page-locked memory of the host, which copies need not pass through a buffer."""

    def copy(self, destination: Memory, source: Memory) -> None:
        """Queue a copy between blocks of equal size, on the host or the device."""

    def clear(self, memory: Memory) -> None:
        """Queue the zeroing of a block on the device."""

    def launch(self, kernel: str, threads: int, *arguments: int) -> None:
        """Queue a kernel of this package; ``threads`` is its last argument."""

    def condition(self) -> int:
        """Handle of a new condition of the graph that is being recorded; 0 where none is."""

    def when(self, condition: int, steps: Callable[[], None]) -> None:
        """Queue ``steps`` in a node that runs only if a kernel has set ``condition``; with 0 they always run."""

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        """Run ``steps``, which queue work; the returned function queues the same work again with one launch."""

    def wait(self) -> None:
        """Wait until all queued work is done."""


Field = tuple[npt.DTypeLike, tuple[int, ...]]
"""Element type and shape of a field of a block."""


def aligned(size: int) -> int:
    """``size`` rounded up to a multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Staging:
    """Named arrays in pinned memory and their copy on the device, transferred as one block in either direction."""

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
        """Make the host's arrays writable: wait until the last transfer has read them."""
        if self._sent > self._gpu.done:
            self._gpu.wait()

    def close(self) -> None:
        """Note that the work which reads the host's arrays has been queued."""
        self._sent = self._gpu.sent

    def upload(self) -> None:
        """Queue the copy to the device."""
        self._gpu.copy(self.device, self.host)

    def download(self) -> None:
        """Queue the copy to the host."""
        self._gpu.copy(self.host, self.device)
