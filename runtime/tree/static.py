"""A tree whose nodes are chosen once: the paths of ranks that a target accepted most often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from runtime.tree.builder import UNRANKED, TreeBuilder
from runtime.tree.shape import TreeShape

Path = tuple[int, ...]
"""Ranks among the candidates from the root on: (0, 2) is the third candidate below the best one."""


class StaticTreeBuilder(TreeBuilder):
    """Grows the nodes of ``frequencies``, which has the share of steps in which each path was accepted."""

    def __init__(self, root_token: int, shape: TreeShape, frequencies: Mapping[Path, float]) -> None:
        self._frequencies = frequencies
        super().__init__(root_token, shape)

    def _cumulative(self, parent: int, rank: int, logprob: float) -> float:
        path = [rank]
        while parent > 0:
            path += [self._ranks[parent]] if self._ranks[parent] != UNRANKED else []
            parent = self._parents[parent]
        frequency = self._frequencies.get(tuple(reversed(path)), 0.0)
        return math.log(frequency) if frequency > 0 and logprob > -math.inf else -math.inf


def most_frequent(accepted: Iterable[Path], shape: TreeShape) -> dict[Path, float]:
    """The best ``shape.nodes - 1`` paths for the longest ``accepted`` path of each step, with their frequencies.

    A tree's expected accepted tokens are the sum of its paths' frequencies, and no path is more frequent than the path
    before it. So the most frequent ones are the best tree (compare Sequoia, arXiv 2402.12374).
    """
    counts: Counter[Path] = Counter()
    steps = 0
    for path in accepted:
        steps += 1
        longest = next((index for index, rank in enumerate(path) if rank >= shape.top_k), len(path))
        counts.update(path[:length] for length in range(1, min(longest, shape.depth + 1) + 1))
    chosen: dict[Path, float] = {}
    width: Counter[int] = Counter()
    for path, count in sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0])):
        if len(chosen) == shape.nodes - 1:
            break
        # A level expands at most top-k nodes; what is not expanded has no children.
        parent = path[:-1]
        if parent and parent not in chosen:
            continue
        if width[len(path)] < shape.top_k:
            width[len(path)] += 1
            chosen[path] = count / steps
    return chosen
