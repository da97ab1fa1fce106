"""The Gumbel noise of (seed, position, token id), shared by draft and target.

Choosing ``argmax(logits + T * gumbel)`` samples from ``softmax(logits / T)``. With the noise fixed by
the seed, both models look for the maximum under the same noise, which makes them agree far more often
(drafter-invariant speculative decoding, Daliri et al., arXiv 2408.07978).

Token ``i`` at position ``t`` takes word ``i`` of the Philox4x32-10 stream (Salmon et al., SC 2011) with
key = seed and counter = (i // 4, t, 0, 0): it depends on neither the vocabulary's size nor the backend.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_KEPT_ROWS = 32


def philox4x32(counter: np.ndarray, key: int, rounds: int = 10) -> np.ndarray:
    """Encrypt counters uint64 ``[4, n]`` (32-bit words) under a 64-bit key; returns words uint64 ``[4, n]``."""
    c0, c1, c2, c3 = counter.astype(np.uint64)
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(rounds):
        p0 = c0 * _MULTIPLIER_0
        p1 = c2 * _MULTIPLIER_1
        c0, c1 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def gumbel(seed: int, first_position: int, positions: int, vocab_size: int) -> np.ndarray:
    """Standard Gumbel noise, float32 ``[positions, vocab_size]``; ``seed`` is a 64-bit integer."""
    blocks = -(-vocab_size // 4)
    counter = np.zeros((4, positions, blocks), dtype=np.uint64)
    counter[0] = np.arange(blocks, dtype=np.uint64)
    counter[1] = np.arange(first_position, first_position + positions, dtype=np.uint64)[:, None]
    words = philox4x32(counter.reshape(4, -1), seed)
    uniform = (words.T.reshape(positions, blocks * 4)[:, :vocab_size] + 0.5) / 2.0**32
    # In float64 and rounded at the end: float32 logarithms differ in their last bit between builds of NumPy.
    return (-np.log(-np.log(uniform))).astype(np.float32)


class Noise:
    """``T * gumbel`` of one request; a row is made once, with its neighbours, and kept for a while."""

    def __init__(self, seed: int, temperature: float, vocab_size: int) -> None:
        self._seed, self._temperature, self._vocab_size = seed, np.float32(temperature), vocab_size
        # A block of rows costs little more than one while the vocabulary is small.
        self._block_rows = max(1, min(8, 2**14 // vocab_size))
        self._block = lru_cache(maxsize=_KEPT_ROWS // self._block_rows)(self._make_block)
        self._zeros = np.zeros(vocab_size, np.float32)

    def row(self, position: int) -> np.ndarray:
        """Noise for the token at ``position``, float32 ``[vocab_size]``; zeros when greedy. Do not write to it."""
        if self._temperature == 0:
            return self._zeros
        index, offset = divmod(position, self._block_rows)
        row: np.ndarray = self._block(index)[offset]
        return row

    def _make_block(self, index: int) -> np.ndarray:
        first = index * self._block_rows
        return self._temperature * gumbel(self._seed, first, self._block_rows, self._vocab_size)
