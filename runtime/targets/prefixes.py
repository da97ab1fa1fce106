"""Rows of earlier texts, for later texts that begin with the same tokens: chat turns, system prompts.

Rows are kept in blocks of tokens. A block is known by the hash of all tokens up to its end, so blocks of texts that
begin alike are stored once. The block that was used least recently is dropped first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

BLOCK = 64
"""Tokens of a block."""


class PrefixCache:
    """At most ``limit`` bytes of one target's rows, all of texts whose bits do not depend on how they were computed."""

    def __init__(self, limit: int) -> None:
        self._limit, self.bytes = limit, 0
        self._blocks: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def longest(self, tokens: Sequence[int]) -> list[np.ndarray]:
        """The blocks that ``tokens`` begin with; at least one token is left over, whose logits must be computed."""
        found = []
        for key, _ in _keys(tokens[:-1]):
            if key not in self._blocks:
                break
            self._blocks.move_to_end(key)
            found.append(self._blocks[key])
        return found

    def store(self, tokens: Sequence[int], rows: Callable[[int, int], np.ndarray]) -> None:
        """Keep the whole blocks of ``tokens``; ``rows`` copies the rows ``[start, stop)`` of their text."""
        for key, stop in _keys(tokens):
            if key not in self._blocks:
                block = rows(stop - BLOCK, stop)
                if block.nbytes > self._limit:
                    return
                self._blocks[key] = block
                self.bytes += block.nbytes
            self._blocks.move_to_end(key)
        while self.bytes > self._limit:
            self.bytes -= self._blocks.popitem(last=False)[1].nbytes


def _keys(tokens: Sequence[int]) -> Iterator[tuple[bytes, int]]:
    """For each whole block, the hash of all tokens up to its end, and how many these are."""
    digest = hashlib.blake2b(digest_size=16)
    for stop in range(BLOCK, len(tokens) + 1, BLOCK):
        digest.update(np.asarray(tokens[stop - BLOCK : stop], np.int64).tobytes())
        yield digest.digest(), stop
