"""Key/value caches in layout BSH: one block of memory, of which calls bind a prefix of each layer."""

from __future__ import annotations

import math
import mmap
import sys

import numpy as np
import onnxruntime as ort

from s2d_trt.cli import byte_size
from s2d_trt.errors import CapacityError

BUCKET = 64
"""Prefixes grow by this many slots, so that the cost of a call follows the used length."""

KEPT = 256
"""Slots that may keep their memory from text to text."""


class KVCache:
    """Keys and values of ``layers`` layers over ``slots`` slots, zeroed (a NaN in a masked slot would leak).

    Only the slots that were used take memory: the block is mapped in small pages. After a long text a reset gives them
    back; after a short one it zeroes them, which is faster than to map them again.
    """

    def __init__(self, layers: int, slots: int, width: int) -> None:
        self.slots = -(-slots // BUCKET) * BUCKET
        shape = (2 * layers, 1, self.slots, width)
        self._memory = _zeroed(4 * math.prod(shape))
        self._block = np.frombuffer(self._memory, np.float32).reshape(shape)
        self.layers = layers
        self._used = 0
        self._views: dict[int, list[ort.OrtValue]] = {}

    def hold(self, stop: int) -> int:
        """Mark the slots before ``stop`` as used; the smallest bucket that holds them."""
        self._used = max(self._used, stop)
        return min(self.slots, -(-stop // BUCKET) * BUCKET)

    def views(self, bucket: int) -> list[ort.OrtValue]:
        """The first ``bucket`` slots of each layer's keys and values in turn, float32 ``[1, bucket, width]``.

        To wrap them takes longer than to bind them, so they are kept.
        """
        if bucket not in self._views:
            self._views[bucket] = [ort.OrtValue.ortvalue_from_numpy(part[:, :bucket]) for part in self._block]
        return self._views[bucket]

    def fill(self, rng: np.random.Generator, stop: int) -> None:
        """Fill the slots before ``stop``, and the rest of their bucket, with random numbers."""
        part = self._block[:, :, : self.hold(self.hold(stop))]
        part[:] = rng.standard_normal(part.shape, np.float32)

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move rows ``sources`` (int64 ``[n]``) to slots ``start ..``; all are read before any is written."""
        self._block[:, :, start : start + len(sources)] = self._block[:, :, sources]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of rows ``[start, stop)``: float32 ``[2 * layers, 1, stop - start, width]``."""
        return self._block[:, :, start:stop].copy()

    def restore(self, start: int, rows: np.ndarray) -> None:
        """Write ``rows``, a copy of a cache of this shape, to slots ``start ..``."""
        stop = start + rows.shape[2]
        self.hold(stop)
        self._block[:, :, start:stop] = rows

    def reset(self) -> None:
        """Zero the slots that calls may have written since the last reset."""
        if _GIVES_BACK and self._used > KEPT:
            self._memory.madvise(mmap.MADV_DONTNEED)
        else:
            self._block[:, :, : self._used] = 0.0
        self._used = 0


_GIVES_BACK = sys.platform == "linux"
"""Elsewhere this advice does not zero the pages."""


def _zeroed(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if _GIVES_BACK else mmap.mmap(-1, size)
    except (OSError, ValueError, OverflowError) as cause:
        raise CapacityError(
            f"there is not enough memory for a cache of {byte_size(size)}; run fewer texts, or build the bundle with a"
            " smaller --max-length"
        ) from cause
