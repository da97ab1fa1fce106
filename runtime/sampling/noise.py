"""The Gumbel noise of (seed, position, token id), shared by draft and target.

Choosing ``argmax(logits + T * gumbel)`` samples from ``softmax(logits / T)``. Draft and target add the same noise,
which the seed fixes, so they choose the same token far more often than with noise of their own (drafter-invariant
speculative decoding, Daliri et al., arXiv 2408.07978).

Token ``i`` at position ``t`` takes 32-bit word ``i`` of the Philox4x64-10 stream (Salmon et al., SC 2011) with key =
seed and counter = (0, t, 0, 0): it depends on neither the vocabulary's size nor the backend. NumPy promises that the
stream of its generator never changes.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

_BLOCK_ROWS, _BLOCK_NUMBERS = 8, 16384
"""Rows that are made together, fewer of a large vocabulary. An engine's call empties the processor's caches, after
which a row made by itself takes twice as long."""
_KEPT_ROWS = 32


class Gumbel:
    """Standard Gumbel noise of one ``seed``, a 64-bit integer."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=seed)
        # Setting a state takes a third of the time of making a generator, which also asks the system for entropy.
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
    """``T * gumbel`` of one text. Rows of neighbouring positions are made together, and the latest blocks are kept."""

    def __init__(self, seed: int, temperature: float, vocab_size: int) -> None:
        self._gumbel, self._temperature, self._vocab_size = Gumbel(seed), np.float32(temperature), vocab_size
        self._zeros = np.zeros(vocab_size, np.float32)
        self._rows = min(_BLOCK_ROWS, max(1, _BLOCK_NUMBERS // vocab_size))
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()

    def row(self, position: int) -> np.ndarray:
        """Noise for the token at ``position``, float32 ``[vocab_size]``; zeros when greedy. Do not write to it."""
        if self._temperature == 0:
            return self._zeros
        index, row = divmod(position, self._rows)
        block = self._blocks.get(index)
        if block is None:
            positions = range(index * self._rows, (index + 1) * self._rows)
            block = self._blocks[index] = self._temperature * self._gumbel.rows(positions, self._vocab_size)
            if len(self._blocks) * self._rows > _KEPT_ROWS:
                self._blocks.popitem(last=False)
        noise: np.ndarray = block[row]
        return noise
