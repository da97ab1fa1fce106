"""Numbers of rows that calls are padded to, so that few recorded graphs serve all of them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise


class Buckets:
    """1, 2, 4, 8, 16, and from there in steps of at most a half, up to ``largest``; ``edges`` are buckets too."""

    def __init__(self, largest: int, edges: tuple[int, ...] = ()) -> None:
        grown = {1, 2, 4, 8}
        size = 16
        while size < largest:
            grown |= {size, size + size // 2}
            size *= 2
        self.largest = largest
        self.sizes = sorted(size for size in {*grown, *edges, largest} if size <= largest)
        assert all(a < b for a, b in pairwise(self.sizes))

    def fit(self, rows: int, room: int) -> int:
        """The smallest bucket for ``rows`` rows; where fewer than that fit in ``room``, ``rows`` itself."""
        bucket = self.sizes[bisect_left(self.sizes, rows)]
        return bucket if bucket <= room else rows
