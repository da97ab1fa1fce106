"""The interface of drafting policies: which exit answers, how large a tree is grown, whether to draft at all.

A ``DraftingPolicy`` is what the user chooses. It opens a ``StepPlanner`` for each text, which makes a ``StepBudget``
before each step. The budget is made whole, and every decision of the step is read from it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.drafting.learned import PairStatistics
from runtime.drafting.proposal import Outcome
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape

Confidence = Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a step could draft.

    ``backlog`` is the number of rows that the draft model would run first: committed tokens that it has not seen. None
    means that no draft model can draft in this step. ``copied`` holds the cumulative log-probabilities that the
    tokens found by n-gram lookup are accepted; it is empty where nothing was found. ``forced`` is the number of tokens
    that are verified in any case, since no others may follow.
    """

    backlog: int | None
    copied: Sequence[float] = ()
    forced: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What shares the target's call with a text: ``texts`` decode in it, the text included, in ``lanes`` lanes, and the
    others are expected to have ``others`` rows, those of prompts included.
    """

    texts: int = 1
    others: int = 0
    lanes: int = 1


ALONE = Load()


class StepBudget:
    """The decisions of one step; this one always drafts, as large as the shape allows, until the last exit.

    ``paths`` are the cumulative log-probabilities of a frontier's nodes, ``children`` the log-probability of each
    node's best candidate.
    """

    floor: float = -math.inf
    """A candidate becomes a node only if its cumulative log-probability is above this."""

    drafts: bool = True
    """Whether the draft model runs in this step."""

    predicted_ms: float = 0.0
    """What the text's share of the draft's calls should take by the measured costs; 0 where nothing is priced."""

    def grow(self, root_token: int, shape: TreeShape) -> TreeBuilder:
        """The tree of this step, so far its root."""
        return TreeBuilder(root_token, shape, self.floor)

    def calibrated(self, exit_index: int, logprobs: list[list[float]]) -> list[list[float]]:
        """For each frontier node's candidates, the log-probability that the target accepts them, given the exit's
        own ``logprobs``.
        """
        return logprobs

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        """Whether the exit's answer is taken; otherwise the next segment runs on ``backlog`` rows. The last exit's
        answer is always taken.
        """
        return False

    def continues(self, paths: Sequence[float]) -> bool:
        """Whether another level is grown below the frontier ``paths``."""
        return len(paths) > 0

    def also_runs(self, rows: int) -> None:
        """The next pass runs ``rows`` rows of forced tokens too. They say nothing of what drafting costs: without it
        they would be backlog of a later step.
        """

    def size(self, logprobs: Sequence[float]) -> int:
        """How many nodes are verified, given their cumulative log-probabilities, the root's 0 first and falling."""
        return len(logprobs)


class StepPlanner(ABC):
    """One text's policy."""

    @abstractmethod
    def plan(self, prospect: Prospect, load: Load = ALONE) -> StepBudget:
        """The budget of the next step."""

    def expects_to_draft(self, load: Load) -> bool:
        """Whether a draft model is likely to run in the next steps under such a load."""
        return True

    def learn(self, budget: StepBudget, outcome: Outcome) -> None:  # noqa: B027  a fixed policy learns nothing
        """Take note of how the step of ``budget`` ended; called after every step, drafted or not."""


class DraftingPolicy(ABC):
    """How texts are drafted. A policy decides only the speed, never the text."""

    looks_up: bool = True
    """Whether n-gram lookup is on unless the user says otherwise."""
    needs_costs: bool = False
    """Whether ``open`` reads the measured costs of the pair."""

    @abstractmethod
    def largest_tree(self, chain: bool) -> TreeShape:
        """The limits of the tree where the user sets none; a chain where ``chain``."""

    @abstractmethod
    def open(self, pair: PairStatistics, temperature: float) -> StepPlanner:
        """The planner of one text. Raises OptionError where the policy does not fit the draft."""

    def check(self, exits: tuple[int, ...]) -> None:  # noqa: B027  most policies fit every draft
        """Raise OptionError where the policy does not fit a draft with ``exits``."""


def confidence(paths: Sequence[float], children: Sequence[float], rule: Confidence) -> float:
    """Confidence of a depth in [0, 1], from log-probabilities.

    ``mean`` is ``sum p(path) * max p(child) / sum p(path)`` over the frontier. ``max`` is the largest
    ``max p(child)``, the published rule for trees. For a chain both are the maximum softmax probability.
    """
    if len(paths) == 1 or rule == "max":
        return math.exp(max(children))
    best = max(paths)
    weights = [math.exp(path - best) for path in paths]
    return sum(weight * math.exp(child) for weight, child in zip(weights, children, strict=True)) / sum(weights)
