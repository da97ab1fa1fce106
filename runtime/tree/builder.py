"""Growing a draft tree level by level, then cutting it to what is verified (EAGLE-2, arXiv 2406.16858)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

UNRANKED = -1


class TreeBuilder:
    """Grows a tree: each level keeps its ``top_k`` best candidates as the frontier that is expanded next.

    ``frontier_tokens`` and ``frontier_logprobs`` (cumulative from the root) describe the frontier, at first the root;
    ``frontier_parents`` gives, for each of its nodes, the index of the parent in the frontier before. All are lists: a
    level is a few dozen numbers, on which calls to NumPy would take longer than the arithmetic.

    A node's log-probability never exceeds its parent's, so the best nodes always form a tree.
    """

    def __init__(self, root_token: int, shape: TreeShape, floor: float = -math.inf) -> None:
        self._shape, self._floor, self.top_k = shape, floor, shape.top_k
        self._tokens, self._parents, self._depths, self._logprobs = [root_token], [-1], [0], [0.0]
        self._draft_logprobs, self._ranks = [math.nan], [UNRANKED]
        self._set_frontier([0])
        self.frontier_parents = [0]

    def expand(
        self,
        tokens: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]],
        draft_logprobs: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Add the best ``top_k`` candidates of every frontier node; each has at least as many, best first.

        ``logprobs`` are conditional on the frontier node; ``draft_logprobs`` are the draft's own, where ``logprobs``
        are corrected. A candidate whose path is not above the floor never becomes a node: by default one of
        probability zero (a banned or padding id).
        """
        first, depth = len(self._tokens), self.depth + 1
        own = logprobs if draft_logprobs is None else draft_logprobs
        origins = []
        for index, (node, path) in enumerate(zip(self._frontier, self.frontier_logprobs, strict=True)):
            for rank, (token, logprob) in enumerate(zip(tokens[index][: self.top_k], logprobs[index], strict=False)):
                cumulative = self._cumulative(node, rank, path + min(logprob, 0.0))
                if cumulative > self._floor:
                    self._add(token, node, depth, cumulative, own[index][rank], rank)
                    origins.append(index)
        best = list(range(first, len(self._tokens)))
        if len(best) > self.top_k:
            best = sorted(best, key=self._logprobs.__getitem__, reverse=True)[: self.top_k]
        self.frontier_parents = [origins[node - first] for node in best]
        self._set_frontier(best)

    def force(self, token: int) -> None:
        """Go on from the only node of the frontier with ``token``, which is as likely as that node."""
        (node,) = self._frontier
        self._set_frontier([self._add(token, node, self.depth + 1, self._logprobs[node])])
        self.frontier_parents = [0]

    @property
    def depth(self) -> int:
        """Of the frontier; where that is empty, of the deepest node."""
        return self._depths[-1]

    def frontier_paths(self) -> list[tuple[int, ...]]:
        """For each node of the frontier, the tokens from below the root to it."""
        return [self._path(node) for node in self._frontier]

    def _path(self, node: int) -> tuple[int, ...]:
        tokens = []
        while node > 0:
            tokens.append(self._tokens[node])
            node = self._parents[node]
        return tuple(reversed(tokens))

    def graft(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Merge a chain below the root, given its cumulative ``logprobs``, after all levels are grown.

        A node that is already in the tree takes the larger of the two log-probabilities, at most its parent's.
        """
        children = {pair: node for node, pair in enumerate(zip(self._parents, self._tokens, strict=True))}
        parent = 0
        for depth, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True), 1):
            node, logprob = children.get((parent, token)), min(logprob, self._logprobs[parent])
            if node is None:
                node = self._add(token, parent, depth, logprob)
            elif logprob > self._logprobs[node]:
                self._raise(node, logprob)
            parent = node

    def finish(self, size: Callable[[Sequence[float]], int] = len, chain: bool = False) -> Tree:
        """What is verified: the nodes of the highest cumulative log-probability, or the best ``chain``, at most
        ``shape.nodes`` of them.

        ``size`` is called with their log-probabilities in falling order, the root's 0 first, and may ask for fewer.
        """
        best = self._best_path() if chain else self._by_logprob()[: self._shape.nodes]
        kept = sorted(best[: size([self._logprobs[node] for node in best])])
        renumbered = {node: index for index, node in enumerate(kept)} | {-1: -1}
        return Tree(
            np.array([self._tokens[node] for node in kept]),
            np.array([renumbered[self._parents[node]] for node in kept]),
            np.array([self._depths[node] for node in kept]),
            [self._logprobs[node] for node in kept],
            [self._draft_logprobs[node] for node in kept],
            [self._ranks[node] for node in kept],
        )

    def _cumulative(self, parent: int, rank: int, logprob: float) -> float:
        """The cumulative log-probability of a candidate, given what the draft says."""
        return logprob

    def _by_logprob(self) -> list[int]:
        # The sort is stable: of equal log-probabilities the parent, which is older, comes first.
        return sorted(range(len(self._tokens)), key=self._logprobs.__getitem__, reverse=True)

    def _best_path(self) -> list[int]:
        """The path of at most ``shape.nodes`` nodes whose tokens' probabilities of acceptance have the largest sum: its
        expected accepted tokens.
        """
        expected, best = [0.0], 0
        for node in range(1, len(self._tokens)):
            expected.append(expected[self._parents[node]] + math.exp(self._logprobs[node]))
            if self._depths[node] < self._shape.nodes and expected[node] > expected[best]:
                best = node
        path = [best]
        while path[-1] > 0:
            path.append(self._parents[path[-1]])
        return path[::-1]

    def _add(
        self,
        token: int,
        parent: int,
        depth: int,
        logprob: float,
        draft_logprob: float = math.nan,
        rank: int = UNRANKED,
    ) -> int:
        self._tokens.append(token)
        self._parents.append(parent)
        self._depths.append(depth)
        self._logprobs.append(logprob)
        self._draft_logprobs.append(draft_logprob)
        self._ranks.append(rank)
        return len(self._tokens) - 1

    def _raise(self, top: int, logprob: float) -> None:
        """Set a node's log-probability, and shift all nodes below it by as much."""
        amount, raised = logprob - self._logprobs[top], {top}
        self._logprobs[top] = logprob
        for node in range(top + 1, len(self._parents)):
            if (parent := self._parents[node]) in raised:
                raised.add(node)
                # The sum may round to a value above the parent's.
                self._logprobs[node] = min(self._logprobs[parent], self._logprobs[node] + amount)

    def _set_frontier(self, nodes: list[int]) -> None:
        self._frontier = nodes
        self.frontier_tokens = [self._tokens[node] for node in nodes]
        self.frontier_logprobs = [self._logprobs[node] for node in nodes]
