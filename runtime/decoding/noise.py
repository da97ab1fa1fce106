"""The Gumbel noise of (seed, position, token id), shared by draft and target.

Choosing ``argmax(logits + T * gumbel)`` samples from ``softmax(logits / T)``. With the noise fixed by
the seed, both models look for the maximum under the same noise, which makes them agree far more often
(drafter-invariant speculative decoding, Daliri et al., arXiv 2408.07978).

Token ``i`` at position ``t`` takes 32-bit word ``i`` of the Philox4x64-10 stream (Salmon et al., SC 2011) with key =
seed and counter = (0, t, 0, 0): it depends on neither the vocabulary's size nor the backend. NumPy promises that the
stream of its generator never changes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_AT_ONCE, _NUMBERS_AT_ONCE = 8, 16384
"""Rows that are made together, fewer of a large vocabulary: an engine's call leaves the processor's caches cold,
and then a row made alone takes twice as long."""
_KEPT_ROWS = 32


class Gumbel:
    """Standard Gumbel noise of one ``seed``, a 64-bit integer."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=seed)
        # Setting a state costs a third of making a generator, which also asks the system for entropy.
        self._state = self._generator.state

    def rows(self, positions: range, vocab_size: int) -> np.ndarray:
        """The noise at ``positions``, float32 ``[len(positions), vocab_size]``."""
        pairs = np.empty((len(positions), -(-vocab_size // 2)), np.uint64)
        for row, position in zip(pairs, positions, strict=True):
            self._state["state"]["counter"][:] = 0, position, 0, 0
            self._generator.state = self._state
            row[:] = self._generator.random_raw(len(row))
        # In float64 and rounded at the end: float32 logarithms differ in their last bit between builds of NumPy.
        noise = _words(pairs)[:, :vocab_size] + 0.5
        noise *= 2.0**-32
        for _ in range(2):
            np.negative(np.log(noise, out=noise), out=noise)
        return noise.astype(np.float32)


def _words(pairs: np.ndarray) -> np.ndarray:
    """64-bit words as 32-bit ones, low halves first."""
    return pairs.astype("<u8", copy=False).view("<u4")


class Noise:
    """``T * gumbel`` of one request; rows of neighbouring positions are made together and kept for a while."""

    def __init__(self, seed: int, temperature: float, vocab_size: int) -> None:
        self._gumbel, self._temperature, self._vocab_size = Gumbel(seed), np.float32(temperature), vocab_size
        self._zeros = np.zeros(vocab_size, np.float32)
        self._count = min(_AT_ONCE, max(1, _NUMBERS_AT_ONCE // vocab_size))
        self._block = lru_cache(maxsize=_KEPT_ROWS // self._count)(self._make_block)

    def row(self, position: int) -> np.ndarray:
        """Noise for the token at ``position``, float32 ``[vocab_size]``; zeros when greedy. Do not write to it."""
        if self._temperature == 0:
            return self._zeros
        row: np.ndarray = self._block(position // self._count)[position % self._count]
        return row

    def _make_block(self, index: int) -> np.ndarray:
        positions = range(index * self._count, (index + 1) * self._count)
        block: np.ndarray = self._temperature * self._gumbel.rows(positions, self._vocab_size)
        return block
