"""The draft tree: grown level by level, then cut to its best nodes (EAGLE-2, arXiv 2406.16858)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class TreeShape:
    """``depth`` d means d + 1 draft passes and d + 1 levels; ``nodes`` counts the root; ``top_k`` 1 is a chain."""

    depth: int = 2
    top_k: int = 1
    nodes: int = 60

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise OptionError(f"tree depth {self.depth} must be 0 or more (d means d + 1 draft passes)")
        if self.top_k < 1:
            raise OptionError(f"tree top-k {self.top_k} must be at least 1 (1 is a chain)")
        if self.nodes < 2:
            raise OptionError(f"a tree of {self.nodes} nodes cannot draft; allow at least 2 (the root counts)")

    @property
    def draft_rows(self) -> int:
        """Rows that drafting one tree adds to the draft's cache behind the root."""
        return self.depth * self.top_k

    @property
    def verify_rows(self) -> int:
        """Most rows that verifying one tree takes, the root included."""
        grown = self.top_k + self.depth * self.top_k**2
        return 1 + min(self.nodes - 1, grown)


PAPER_TREE = TreeShape(depth=4, top_k=10, nodes=60)


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes in an order in which parents come first; node 0 is the root, the last token of the text.

    ``tokens``, ``parents`` (-1 for the root) and ``depths`` are int64 ``[n]``; ``logprobs`` float64 ``[n]``
    is the cumulative log-probability under the draft, 0 at the root.
    """

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray
    logprobs: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def root_only(cls, token: int) -> Tree:
        """The tree that drafts nothing."""
        return cls(np.array([token]), np.array([-1]), np.zeros(1, np.int64), np.zeros(1))

    @property
    def is_chain(self) -> bool:
        """Whether every node's parent is the node before it."""
        return bool((self.parents == np.arange(-1, len(self) - 1)).all())

    def ancestor_mask(self) -> np.ndarray:
        """bool ``[n, n]``: entry (i, j) is True where j is i or an ancestor of i."""
        size = len(self)
        if self.is_chain:
            return np.tri(size, dtype=bool)
        mask = np.eye(size, dtype=bool)
        for node in range(1, size):
            mask[node] |= mask[self.parents[node]]
        return mask

    def best_path(self) -> Tree:
        """The chain below the root whose nodes are most probable in sum: the tokens it can expect to be accepted."""
        gains, best = np.zeros(len(self)), 0
        for node in range(1, len(self)):
            gains[node] = gains[self.parents[node]] + math.exp(self.logprobs[node])
            best = node if gains[node] > gains[best] else best
        path = [best]
        while path[-1] > 0:
            path.append(int(self.parents[path[-1]]))
        nodes, size = path[::-1], len(path)
        return Tree(self.tokens[nodes], np.arange(-1, size - 1), np.arange(size), self.logprobs[nodes])

    def child(self, node: int, token: int) -> int | None:
        """The child of ``node`` that carries ``token``, if the tree has it."""
        matches = np.flatnonzero((self.parents == node) & (self.tokens == token))
        return int(matches[0]) if len(matches) else None


class TreeBuilder:
    """Grows a tree: each level keeps its ``top_k`` best candidates as the frontier to expand next.

    ``frontier_tokens`` int64 and ``frontier_logprobs`` float64 ``[f]`` describe the frontier (at first
    the root), ``frontier_parents`` int64 ``[f]`` says which node of the frontier before each came from.
    Nodes are kept in lists: a chain, the common tree, would spend more time in calls to NumPy than on its nodes.
    """

    def __init__(self, root_token: int, shape: TreeShape, floor: float = -math.inf) -> None:
        self._shape, self._floor, self.top_k = shape, floor, shape.top_k
        self._tokens, self._parents, self._depths, self._logprobs = [root_token], [-1], [0], [0.0]
        self._set_frontier([0])
        self.frontier_parents = np.zeros(1, np.int64)

    def expand(self, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Add the candidates of every frontier node, int64 and float ``[f, >= top_k]``, best first.

        Candidates whose path is not above the floor, by default of probability zero (banned or padding
        ids), never become part of the tree.
        """
        top_k, first = self.top_k, len(self._tokens)
        scores = self.frontier_logprobs[:, None] + logprobs[:, :top_k]
        self._tokens += tokens[:, :top_k].ravel().tolist()
        self._parents += [node for node in self._frontier for _ in range(top_k)]
        self._depths += [self._depths[-1] + 1] * scores.size
        self._logprobs += scores.ravel().tolist()
        level: Iterable[int] = range(first, len(self._tokens))
        if scores.size > top_k:
            level = sorted(level, key=self._logprobs.__getitem__, reverse=True)[:top_k]
        best = [node for node in level if self._logprobs[node] > self._floor]
        self.frontier_parents = np.array([(node - first) // top_k for node in best], np.int64)
        self._set_frontier(best)

    def finish(self, size: Callable[[np.ndarray], int] = len) -> Tree:
        """The best ``nodes`` by cumulative log-probability, renumbered; a node never outranks its parent.

        ``size``, given the log-probabilities of these, best first, may ask for fewer.
        """
        tokens, parents, depths = map(np.array, (self._tokens, self._parents, self._depths))
        logprobs = np.array(self._logprobs)
        # Stable: on equal scores the parent, created earlier, is kept first.
        best = np.argsort(-logprobs, kind="stable")[: self._shape.nodes]
        count = size(logprobs[best[: np.count_nonzero(logprobs[best] > self._floor)]])
        if count < len(tokens):
            kept = np.sort(best[:count])
            renumbered = np.full(len(tokens) + 1, -1, dtype=np.int64)
            renumbered[kept] = np.arange(count)
            tokens, logprobs, depths = tokens[kept], logprobs[kept], depths[kept]
            parents = renumbered[parents[kept]]
        return Tree(tokens, parents, depths, logprobs)

    def _set_frontier(self, nodes: list[int]) -> None:
        self._frontier = nodes
        self.frontier_tokens = np.array([self._tokens[node] for node in nodes], np.int64)
        self.frontier_logprobs = np.array([self._logprobs[node] for node in nodes], np.float64)
