"""The draft tree: grown level by level, then cut to its best nodes (EAGLE-2, arXiv 2406.16858)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    is the cumulative log-probability of acceptance, 0 at the root. ``drafted`` float64 ``[n]`` is what the draft gave a
    node given its parent, NaN where it did not propose it; empty where nobody asks.
    """

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray
    logprobs: np.ndarray
    drafted: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def root_only(cls, token: int) -> Tree:
        """The tree that drafts nothing."""
        return cls(np.array([token]), np.array([-1]), np.zeros(1, np.int64), np.zeros(1))

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
        chain = np.arange(size)
        return Tree(
            self.tokens[nodes],
            chain - 1,
            chain,
            self.logprobs[nodes],
            self.drafted[nodes] if len(self.drafted) else self.drafted,
        )

    def children(self) -> dict[tuple[int, int], int]:
        """Each node by its parent and its token."""
        return {place: node for node, place in enumerate(zip(self.parents.tolist(), self.tokens.tolist(), strict=True))}


_CHAIN = np.tri(64, dtype=bool)


class TreeBuilder:
    """Grows a tree: each level keeps its ``top_k`` best candidates as the frontier to expand next.

    ``frontier_tokens`` and ``frontier_logprobs`` describe the frontier (at first the root), ``frontier_parents`` says
    which node of the frontier before each came from. All are lists: a level of a tree is a few dozen numbers, on which
    calls to NumPy would take longer than the arithmetic.
    """

    def __init__(self, root_token: int, shape: TreeShape, floor: float = -math.inf) -> None:
        self._shape, self._floor, self.top_k = shape, floor, shape.top_k
        self._tokens, self._parents, self._depths, self._logprobs = [root_token], [-1], [0], [0.0]
        self._drafted = [math.nan]
        self._set_frontier([0])
        self.frontier_parents = [0]

    def expand(self, tokens: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> None:
        """Add the best ``top_k`` candidates of every frontier node, given at least as many for each, best first.

        Candidates whose path is not above the floor, by default of probability zero (banned or padding
        ids), never become part of the tree.
        """
        first, depth = len(self._tokens), self._depths[-1] + 1
        origins = []
        for index, (node, path) in enumerate(zip(self._frontier, self.frontier_logprobs, strict=True)):
            for token, logprob in zip(tokens[index][: self.top_k], logprobs[index], strict=False):
                if path + logprob > self._floor:
                    self._add(token, node, depth, path + logprob, logprob)
                    origins.append(index)
        best = list(range(first, len(self._tokens)))
        if len(best) > self.top_k:
            best = sorted(best, key=self._logprobs.__getitem__, reverse=True)[: self.top_k]
        self.frontier_parents = [origins[node - first] for node in best]
        self._set_frontier(best)

    def graft(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Merge a chain below the root, given cumulative ``logprobs``, once all levels are grown.

        A node that stands there already counts the better of the two; a chain stays one.
        """
        children = {place: node for node, place in enumerate(zip(self._parents, self._tokens, strict=True))}
        parent = 0
        for depth, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True), 1):
            node = children.get((parent, token))
            if logprob <= self._floor or (node is None and self.top_k == 1 and parent in self._parents):
                break
            if node is None:
                node = self._add(token, parent, depth, logprob)
            elif logprob > self._logprobs[node]:
                self._raise(node, logprob - self._logprobs[node])
            parent = node

    def _add(self, token: int, parent: int, depth: int, logprob: float, drafted: float = math.nan) -> int:
        self._tokens.append(token)
        self._parents.append(parent)
        self._depths.append(depth)
        self._logprobs.append(logprob)
        self._drafted.append(drafted)
        return len(self._tokens) - 1

    def _raise(self, top: int, amount: float) -> None:
        """Make a node and all below it more probable."""
        raised = {top}
        raised.update(node for node in range(top + 1, len(self._parents)) if self._parents[node] in raised)
        for node in raised:
            self._logprobs[node] += amount

    def finish(self, size: Callable[[Sequence[float]], int] = len) -> Tree:
        """The best ``nodes`` by cumulative log-probability, renumbered; a node never outranks its parent.

        ``size``, given the log-probabilities of these, best first, may ask for fewer.
        """
        # Stable: on equal scores the parent, created earlier, is kept first.
        best = sorted(range(len(self._tokens)), key=self._logprobs.__getitem__, reverse=True)[: self._shape.verify_rows]
        count = size([self._logprobs[node] for node in best])
        kept = sorted(best[:count])
        renumbered = {node: index for index, node in enumerate(kept)} | {-1: -1}
        return Tree(
            np.array([self._tokens[node] for node in kept]),
            np.array([renumbered[self._parents[node]] for node in kept]),
            np.array([self._depths[node] for node in kept]),
            np.array([self._logprobs[node] for node in kept]),
            np.array([self._drafted[node] for node in kept]),
        )

    def _set_frontier(self, nodes: list[int]) -> None:
        self._frontier = nodes
        self.frontier_tokens = [self._tokens[node] for node in nodes]
        self.frontier_logprobs = [self._logprobs[node] for node in nodes]
