"""Fixed thresholds with a tree that was measured beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.drafting.fixed import FixedBudget, FixedPlanner, FixedThresholds
from runtime.drafting.learned import PairStatistics
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.static import Path, StaticTreeBuilder


@dataclass(frozen=True, slots=True)
class StaticTree(FixedThresholds):
    """As ``FixedThresholds``; the nodes of the tree are the paths of ``frequencies``, whatever the draft says of them.

    ``shape`` must hold them.
    """

    frequencies: Mapping[Path, float] = field(default_factory=dict)
    shape: TreeShape = field(default_factory=TreeShape)

    def largest_tree(self, chain: bool) -> TreeShape:
        """The tree that was measured."""
        return self.shape

    def open(self, pair: PairStatistics, temperature: float) -> FixedPlanner:
        """The same budget in every step."""
        fixed = self.budget(pair.exits)
        return FixedPlanner(StaticBudget(fixed.thresholds, fixed.rule, self.frequencies))


@dataclass(frozen=True, slots=True)
class StaticBudget(FixedBudget):
    """A fixed budget whose trees have the paths of ``frequencies``."""

    frequencies: Mapping[Path, float]

    def grow(self, root_token: int, shape: TreeShape) -> TreeBuilder:
        """The tree of this step, so far its root."""
        return StaticTreeBuilder(root_token, shape, self.frequencies)
