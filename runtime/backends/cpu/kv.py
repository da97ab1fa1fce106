"""Key/value caches in layout BSH: one block of memory whose prefix every layer can be shown."""

from __future__ import annotations

import numpy as np

BUCKET = 64
"""Prefix views grow by this many positions, so that cost follows the used length."""


class KVCache:
    """Keys and values of ``layers`` layers over ``slots`` positions, zeroed (a NaN in a masked slot would leak)."""

    def __init__(self, layers: int, slots: int, width: int) -> None:
        self.slots = -(-slots // BUCKET) * BUCKET
        self._block = np.zeros((2 * layers, 1, self.slots, width), dtype=np.float32)
        self.layers = layers

    def bucket(self, length: int) -> int:
        """Smallest prefix that holds ``length`` positions."""
        return min(self.slots, -(-length // BUCKET) * BUCKET)

    def view(self, layer: int, part: str, bucket: int) -> np.ndarray:
        """The first ``bucket`` slots of a layer's ``key`` or ``value``: contiguous float32 ``[1, bucket, width]``."""
        return self._block[2 * layer + (part == "value"), :, :bucket]

    def move(self, sources: np.ndarray, start: int) -> None:
        """Bring rows ``sources`` (int64 ``[n]``) to ``start ..``; all are read before any is written."""
        self._block[:, :, start : start + len(sources)] = self._block[:, :, sources]
