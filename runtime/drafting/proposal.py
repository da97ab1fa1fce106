"""What a step drafts, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.tree.tree import Tree


@dataclass(frozen=True, slots=True)
class Proposal:
    """``tree`` is to be verified. ``exits`` holds, for each depth that the draft model drafted, the index of the exit
    that answered; it is empty where no draft model ran.
    """

    tree: Tree
    exits: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Wall time of one step in seconds: engine calls of the draft, engine calls of the target, and the whole step."""

    draft: float
    verify: float
    total: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified proposal. ``path`` lists the accepted nodes from the root on. ``copied`` is the number of the step's
    tokens that n-gram lookup had proposed.
    """

    proposal: Proposal
    path: list[int]
    times: StepTimes
    copied: int = 0
