"""The published policy: fixed thresholds, a tree of fixed shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.drafting.learned import PairStatistics
from runtime.drafting.policy import (
    ALONE,
    Confidence,
    DraftingPolicy,
    Load,
    Prospect,
    StepBudget,
    StepPlanner,
    confidence,
)
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class FixedThresholds(DraftingPolicy):
    """An exit answers when its confidence is above its threshold (arXiv 2407.01955).

    ``thresholds`` None means 0.5 at every exit but the last.
    """

    thresholds: tuple[float, ...] | None = None
    rule: Confidence = "mean"

    looks_up = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(map(math.isfinite, self.thresholds or ())):
            raise OptionError(f"thresholds {self.thresholds} must be numbers; above 1 an exit never answers")

    def largest_tree(self, chain: bool) -> TreeShape:
        """A chain of three drafted tokens."""
        return TreeShape()

    def check(self, exits: tuple[int, ...]) -> None:
        """There must be one threshold for each exit."""
        if exits and self.thresholds is not None and len(self.thresholds) != len(exits):
            raise OptionError(
                f"{len(self.thresholds)} thresholds for {len(exits)} exits {','.join(map(str, exits))};"
                " give one for each exit, like 0.5,0.5,0"
            )

    def budget(self, exits: tuple[int, ...]) -> FixedBudget:
        """The budget of every step with a draft of ``exits``. Raises OptionError."""
        self.check(exits)
        return FixedBudget(self.thresholds or (0.5,) * (len(exits) - 1) + (0.0,), self.rule)

    def open(self, pair: PairStatistics, temperature: float) -> FixedPlanner:
        """The same budget in every step."""
        return FixedPlanner(self.budget(pair.exits))


@dataclass(frozen=True, slots=True)
class FixedBudget(StepBudget):
    """``thresholds`` has one entry for each exit. A device can decide by it without the host."""

    thresholds: tuple[float, ...]
    rule: Confidence

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        """Compare the confidence with the exit's threshold."""
        return confidence(paths, children, self.rule) > self.thresholds[exit_index]


@dataclass(frozen=True, slots=True)
class FixedPlanner(StepPlanner):
    """Plans every step alike."""

    budget: FixedBudget

    def plan(self, prospect: Prospect, load: Load = ALONE) -> FixedBudget:
        """The one budget."""
        return self.budget
