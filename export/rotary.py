"""Rotary positions: the angles of every position, with the context scalings that checkpoints ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

COS_CACHE = "rotary.cos"
SIN_CACHE = "rotary.sin"


@dataclass(frozen=True, slots=True)
class Rotary:
    """Base frequency and scaling: ``default``, ``linear`` (positions divided by ``factor``) or ``llama3``.

    ``llama3`` divides only the slow frequencies, those whose wavelength exceeds ``original_length / low_factor``, and
    goes over to the fast ones, below ``original_length / high_factor``, along a line (Llama 3.1's own rule).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_length: int = 8192

    def reach(self, max_position_embeddings: int) -> int:
        """How many positions the model is good for; configs state the length before linear scaling."""
        return int(max_position_embeddings * self.factor) if self.kind == "linear" else max_position_embeddings

    def frequencies(self, head_dim: int) -> Float32Array:
        """Radians per position of each pair of channels, ``[head_dim / 2]``."""
        exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        plain: Float32Array = np.float32(1) / np.power(np.float32(self.theta), exponent)
        slow = plain / np.float32(self.factor)
        if self.kind != "llama3":
            return slow if self.kind == "linear" else plain
        turns = np.float32(self.original_length) * plain / np.float32(2 * math.pi)
        share = np.clip((turns - self.low_factor) / (self.high_factor - self.low_factor), 0.0, 1.0).astype(np.float32)
        blended: Float32Array = (1 - share) * slow + share * plain
        return blended

    def caches(self, head_dim: int, length: int) -> tuple[Float32Array, Float32Array]:
        """Cosine and sine of every position's angles, each ``[length, head_dim / 2]`` float32.

        Angles are taken in float32 as Hugging Face does, so that both round alike at late positions.
        """
        angles = np.arange(length, dtype=np.float32)[:, None] * self.frequencies(head_dim)[None, :]
        return np.cos(angles), np.sin(angles)
