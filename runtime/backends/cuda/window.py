"""Which texts of a pool a call updates, and the numbers of rows it is padded to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """The texts ``[first, first + count)`` of a pool, whose caches are neighbours in memory."""

    first: int
    count: int

    @classmethod
    def around(cls, texts: Sequence[int], size: int) -> Window:
        """The smallest window with all ``texts``, in a pool of ``size``.

        Its count is a power of two, cut off by the pool's end, and it begins at a multiple of that, so there are few.
        """
        count = 1
        while min(texts) // count != max(texts) // count:
            count *= 2
        first = min(texts) // count * count
        return cls(first, min(count, size - first))

    @property
    def texts(self) -> range:
        """Numbers of the texts."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a call through layers: it is recorded once for each.

    All but attention compute ``rows`` packed rows, attention ``lane_rows`` in each lane of the ``window``, which read
    ``view`` slots of its caches.
    """

    rows: int
    lane_rows: int
    window: Window
    view: int
