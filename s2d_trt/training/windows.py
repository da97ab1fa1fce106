"""Batches of equal windows from a stream of token ids, in an order that a resumed run repeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2d_trt.errors import OptionError

IGNORED = -100
"""The label of a position that the loss ignores (torch's default)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Documents one after another: token ids, int32 ``[n]``, and which of them the loss counts, bool ``[n]``."""

    ids: np.ndarray
    counted: np.ndarray

    @classmethod
    def whole(cls, ids: np.ndarray) -> Stream:
        """A stream in which every token counts."""
        return cls(ids.astype(np.int32, copy=False), np.ones(len(ids), bool))

    @classmethod
    def join(cls, parts: Iterable[Stream]) -> Stream:
        """All parts, one after another; without parts an empty stream."""
        parts = [cls.whole(np.zeros(0, np.int32)), *parts]
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate([part.counted for part in parts]))

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, tail: int) -> tuple[Stream, Stream]:
        """The stream without its last ``tail`` tokens, and those tokens."""
        cut = max(0, len(self) - tail)
        return Stream(self.ids[:cut], self.counted[:cut]), Stream(self.ids[cut:], self.counted[cut:])

    def cut(self, starts: np.ndarray, length: int) -> Batch:
        """One window of ``length`` tokens from each start."""
        positions = starts[:, None] + np.arange(length + 1)
        ids = self.ids[positions].astype(np.int64)
        return Batch(ids[:, :-1], np.where(self.counted[positions[:, 1:]], ids[:, 1:], IGNORED))


class Batch(NamedTuple):
    """Windows: input tokens, and for each the next token or ``IGNORED``; both int64 ``[count, length]``."""

    inputs: np.ndarray
    labels: np.ndarray


class Windows:
    """Windows of ``length`` tokens cut from a stream, in an order that the seed determines.

    Each epoch cuts the stream at another random offset and shuffles the windows. Batch ``k`` depends only on seed and
    ``k``, so a resumed run reads the same batches as an uninterrupted one.
    """

    def __init__(self, stream: Stream, length: int, seed: int) -> None:
        if len(stream) < 2 * length + 1:
            raise OptionError(
                f"the corpus has {len(stream)} tokens, too few for windows of {length}; add text or lower --seq-length"
            )
        if not stream.counted.any():
            raise OptionError("no token of the data counts: its conversations hold no answers; add some")
        self._stream, self._length, self._seed = stream, length, seed
        self.per_epoch = (len(stream) - 1) // length - 1
        self._epoch = -1
        self._starts = np.zeros(0, np.int64)

    def batch(self, first: int, count: int) -> Batch:
        """Windows number ``first`` to ``first + count - 1`` of the endless sequence."""
        return self._stream.cut(np.array([self._start(first + index) for index in range(count)]), self._length)

    def stretched(self, times: int) -> Windows:
        """Windows that are ``times`` as long, from the same stream and seed."""
        return Windows(self._stream, self._length * times, self._seed) if times > 1 else self

    def digest(self) -> str:
        """A SHA-256 of the stream, the window length and the seed."""
        digest = hashlib.sha256(f"{self._length} {self._seed} {len(self._stream)} ".encode())
        digest.update(self._stream.ids.data)
        digest.update(np.packbits(self._stream.counted).data)
        return digest.hexdigest()

    def _start(self, number: int) -> int:
        epoch, position = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            offset = int(rng.integers(self._length))
            self._starts = offset + self._length * rng.permutation(self.per_epoch)
            self._epoch = epoch
        return int(self._starts[position])


def held_out_windows(stream: Stream, length: int, limit: int) -> Batch:
    """Up to ``limit`` disjoint windows, spread evenly over the stream.

    Raises:
        OptionError: the stream is shorter than one window, or no position of the windows counts.
    """
    total = (len(stream) - 1) // length
    if total < 1:
        raise OptionError(
            f"what is held out has {len(stream)} tokens, too few for a window of {length}; hold out more text"
        )
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))
    windows = stream.cut(chosen * length, length)
    if (windows.labels == IGNORED).all():
        raise OptionError("what is held out has no answer in it; hold out more conversations")
    return windows
