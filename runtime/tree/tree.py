"""A draft tree as the target verifies it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes in an order in which parents come first; node 0 is the root, the last token of the text.

    ``tokens``, ``parents`` (-1 for the root) and ``depths`` are int64 ``[n]``. The lists have an entry for each node,
    and are empty where nobody learns from the tree: ``logprobs`` is the cumulative log-probability that the node is
    accepted, 0 at the root. ``draft_logprobs`` is the draft model's own log-probability of the token given its
    parent, and ``ranks`` the rank among the parent's candidates (0 is the best): NaN and -1 where no draft model
    proposed the node.
    """

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray
    logprobs: list[float] = field(default_factory=list)
    draft_logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def chain(cls, tokens: list[int] | np.ndarray) -> Tree:
        """A tree without branches: each token is the child of the token before it."""
        depths = np.arange(len(tokens))
        return cls(np.asarray(tokens, np.int64), depths - 1, depths)

    @property
    def is_chain(self) -> bool:
        """Whether every node's parent is the node before it."""
        parents: list[int] = self.parents.tolist()
        return parents == list(range(-1, len(self) - 1))

    def ancestor_mask(self) -> np.ndarray:
        """bool ``[n, n]``: entry (i, j) is True where j is i or an ancestor of i. Do not write to it."""
        size = len(self)
        if self.is_chain:
            return _CHAIN[:size, :size] if size <= len(_CHAIN) else np.tri(size, dtype=bool)
        mask = np.eye(size, dtype=bool)
        for node, parent in enumerate(self.parents.tolist()[1:], 1):
            mask[node] |= mask[parent]
        return mask

    def children(self) -> dict[tuple[int, int], int]:
        """Each node by its parent and its token."""
        pairs = zip(self.parents.tolist(), self.tokens.tolist(), strict=True)
        return {pair: node for node, pair in enumerate(pairs)}


_CHAIN = np.tri(64, dtype=bool)
