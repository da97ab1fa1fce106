"""The two decisions of drafting: which exit answers, and how large a tree to grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from runtime.tree import TreeShape
from s2d_trt.errors import OptionError

Confidence = Literal["mean", "max"]


class ExitPolicy(Protocol):
    """Decides whether an exit's answer is taken or the next segment runs."""

    def answers(self, exit_index: int, path_logprobs: np.ndarray, child_logprobs: np.ndarray) -> bool:
        """Whether exit number ``exit_index`` answers for a depth.

        ``path_logprobs`` [f] are the frontier's cumulative log-probabilities, ``child_logprobs`` [f] each
        frontier node's best next token's.
        """


def confidence(path_logprobs: np.ndarray, child_logprobs: np.ndarray, rule: Confidence) -> float:
    """Confidence of a depth in [0, 1].

    ``mean``: ``sum p(path) * max p(child) / sum p(path)`` over the frontier. ``max``: the highest
    ``max p(child)``, the published rule for trees. For a chain both are the maximum softmax probability.
    """
    if len(path_logprobs) == 1:
        return math.exp(child_logprobs[0])
    if rule == "max":
        return math.exp(child_logprobs.max())
    weights = np.exp(path_logprobs - path_logprobs.max())
    return float(weights @ np.exp(child_logprobs) / weights.sum())


@dataclass(frozen=True, slots=True)
class FixedThresholds:
    """The published policy: an exit answers when its confidence is above its threshold; the last always does.

    ``thresholds`` None means 0.5 at every exit but the last.
    """

    thresholds: tuple[float, ...] | None = None
    rule: Confidence = "mean"

    def fit(self, exits: tuple[int, ...]) -> FixedThresholds:
        """This policy for a draft with ``exits``. Raises OptionError unless there is one threshold for each."""
        if self.thresholds is None:
            return FixedThresholds((0.5,) * (len(exits) - 1) + (0.0,), self.rule)
        if len(self.thresholds) != len(exits):
            raise OptionError(
                f"{len(self.thresholds)} thresholds for {len(exits)} exits {','.join(map(str, exits))};"
                " give one for each exit, like 0.5,0.5,0"
            )
        return self

    def answers(self, exit_index: int, path_logprobs: np.ndarray, child_logprobs: np.ndarray) -> bool:
        """See ``ExitPolicy.answers``; only after ``fit``."""
        assert self.thresholds is not None
        last = exit_index == len(self.thresholds) - 1
        return last or confidence(path_logprobs, child_logprobs, self.rule) > self.thresholds[exit_index]


@dataclass(frozen=True, slots=True)
class Policy:
    """Which exit answers, and how large a tree is grown."""

    exit: FixedThresholds = field(default_factory=FixedThresholds)
    tree: TreeShape = field(default_factory=TreeShape)
