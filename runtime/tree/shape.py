"""The limits of a draft tree."""

from __future__ import annotations

from dataclasses import dataclass

from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class TreeShape:
    """The largest tree that a step may draft.

    ``depth`` d means at most d + 1 draft passes, and d + 1 levels below the root. ``top_k`` is the number of nodes that
    a level expands; 1 drafts a chain. ``nodes`` is the number of nodes that are verified, the root included.
    """

    depth: int = 2
    top_k: int = 1
    nodes: int = 60

    def __post_init__(self) -> None:
        check_fields(self)
        if self.depth < 0:
            raise OptionError(f"tree depth {self.depth} must be 0 or more (d means d + 1 draft passes)")
        if self.top_k < 1:
            raise OptionError(f"tree top-k {self.top_k} must be at least 1 (1 is a chain)")
        if self.nodes < 2:
            raise OptionError(f"a tree of {self.nodes} nodes cannot draft; allow at least 2 (the root counts)")

    @property
    def is_chain(self) -> bool:
        """Whether each level has one node."""
        return self.top_k == 1

    @property
    def draft_rows(self) -> int:
        """Rows that drafting one tree adds to the draft's cache after the root."""
        return self.depth * self.top_k

    def verify_rows(self, copied: int = 0) -> int:
        """Most rows of one verify call, the root included; n-gram lookup may add ``copied`` tokens to the tree."""
        return min(self.nodes, 1 + self.top_k + self.depth * self.top_k**2 + copied)


PAPER_TREE = TreeShape(depth=4, top_k=10, nodes=60)
"""The published tree (EAGLE-2's, arXiv 2406.16858)."""
