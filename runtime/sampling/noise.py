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
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

_BLOCK_ROWS, _BLOCK_NUMBERS = 8, 16384
"""Rows that are made together, fewer of a large vocabulary. An engine's call empties the processor's caches, after
which a row made by itself takes twice as long."""
_KEPT_ROWS = 32


Path = tuple[int, ...]
"""The tokens from below the root of a draft tree to one of its nodes."""
Paths = Callable[[], Sequence[Path]]


class DraftNoise(Protocol):
    """What a draft adds to its logits: the target's noise, and what the rules on the text say beforehand."""

    def row(self, position: int, paths: Paths) -> np.ndarray | None:
        """The row for the tokens at ``position``, below ``paths``, float32 ``[V]``; None where no path can go on."""

    def restrict(self, tokens: np.ndarray, logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates ``[paths, candidates]`` of the latest row's paths, best first; those that are banned below their
        own path come last, with -inf.
        """

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may follow the text."""

    def forced(self, paths: Paths) -> Sequence[int]:
        """The only tokens that may follow, of one path; of several paths none."""


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

    def restrict(self, tokens: np.ndarray, logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nothing is banned."""
        return tokens, logprobs

    def admitted(self, tokens: Sequence[int]) -> int:
        """All may follow."""
        return len(tokens)

    def forced(self, paths: Paths) -> Sequence[int]:
        """None: all may follow."""
        return ()

    def row(self, position: int, paths: Paths | None = None) -> np.ndarray:
        """Noise for the token at ``position``, float32 ``[vocab_size]``; zeros when greedy. Do not write to it.

        It is the same below all ``paths``.
        """
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
