"""The two decisions of drafting: which exit answers, and how large a tree to grow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from runtime.drafting.ngram import NgramDraft, NgramOdds
from runtime.drafting.tree import TreeShape
from s2d_trt.errors import OptionError

if TYPE_CHECKING:
    from runtime.decoding.acceptance import Acceptance
    from runtime.drafting.sorted_draft import Proposal

Confidence = Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Wall time of one step: engine calls of the draft and of the target, and everything together."""

    draft: float
    verify: float
    total: float


class DraftingPolicy(ABC):
    """Decides how a step drafts; never what the text says. As it stands: always, and as large as the shape allows.

    Log-probabilities ``paths`` are a frontier's, cumulative from the root; ``children`` those of each frontier node's
    best candidate.
    """

    floor: float = -math.inf
    """Candidates whose cumulative log-probability is not above this never become nodes."""

    def begins(self, waiting: int, guess: NgramDraft | None = None) -> bool:
        """Whether to draft in this step, where ``waiting`` rows would meet the first segment; ``guess`` is for free."""
        return True

    def guessed(self, guess: NgramDraft) -> list[float]:
        """The log-probability that each token of ``guess``, and all before it, are accepted."""
        return NgramOdds().logprobs(guess)

    def calibrated(self, exit_index: int, logprobs: list[list[float]]) -> list[list[float]]:
        """The log-probability of acceptance for each frontier node's candidates, which an exit gives ``logprobs``."""
        return logprobs

    @abstractmethod
    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], waiting: int) -> bool:
        """Whether the exit's answer is taken; else the next segment runs on ``waiting`` rows."""

    def continues(self, paths: Sequence[float]) -> bool:
        """Whether to grow another level below this frontier."""
        return len(paths) > 0

    def size(self, logprobs: Sequence[float]) -> int:
        """How many nodes to verify, given cumulative ``logprobs`` from the root's 0 downwards."""
        return len(logprobs)

    def learn(  # noqa: B027  most policies learn nothing
        self, proposal: Proposal | None, acceptance: Acceptance, seconds: StepTimes
    ) -> None:
        """Look at how a step went; ``proposal`` is None where nothing was drafted."""


def confidence(paths: Sequence[float], children: Sequence[float], rule: Confidence) -> float:
    """Confidence of a depth in [0, 1], from log-probabilities.

    ``mean``: ``sum p(path) * max p(child) / sum p(path)`` over the frontier. ``max``: the highest
    ``max p(child)``, the published rule for trees. For a chain both are the maximum softmax probability.
    """
    if len(paths) == 1 or rule == "max":
        return math.exp(max(children))
    best = max(paths)
    weights = [math.exp(path - best) for path in paths]
    return sum(weight * math.exp(child) for weight, child in zip(weights, children, strict=True)) / sum(weights)


@dataclass(frozen=True, slots=True)
class FixedThresholds(DraftingPolicy):
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

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], waiting: int) -> bool:
        """See ``DraftingPolicy.answers``; only after ``fit``."""
        assert self.thresholds is not None
        last = exit_index == len(self.thresholds) - 1
        return last or confidence(paths, children, self.rule) > self.thresholds[exit_index]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The cost-aware policy (``runtime.drafting.adaptive``). ``shared``: requests learn from each other, per target."""

    shared: bool = True


ADAPTIVE_TREE = TreeShape(depth=7, top_k=4, nodes=32)
"""The largest tree that the cost-aware policy may grow on a CPU; what it grows is as large as pays."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who decides which exit answers, how large a tree may be grown, and whether continuations are also looked up in
    the text (``ngram``); ``tree`` and ``lookup`` None leave that to the first: the published policy has none.
    """

    exit: FixedThresholds | Adaptive = field(default_factory=Adaptive)
    tree: TreeShape | None = None
    lookup: bool | None = None

    @property
    def looks_up(self) -> bool:
        """Whether the text itself is searched for continuations."""
        return isinstance(self.exit, Adaptive) if self.lookup is None else self.lookup

    def limits(self, exact: bool = False) -> TreeShape:
        """The largest tree; a chain where the output must be ``exact`` and no tree was asked for."""
        if self.tree is not None:
            return self.tree
        if isinstance(self.exit, FixedThresholds):
            return TreeShape()
        return replace(ADAPTIVE_TREE, top_k=1) if exact else ADAPTIVE_TREE
