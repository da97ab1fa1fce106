"""What a step drafts, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.tree.tree import Tree

NO_EXIT = -1


@dataclass(frozen=True, slots=True)
class Proposal:
    """``tree`` is to be verified. ``exits`` holds, for each depth down to the last that the draft model drafted, the
    index of the exit that answered, ``NO_EXIT`` for a forced token; it is empty where no draft model ran.
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
class Batch:
    """What the texts of one target's call have in common.

    ``texts`` of them decode in it, ``drafted`` of these ran the draft model. Its ``lanes`` hold ``context`` committed
    tokens, and it computes ``rows`` rows, of which ``prompt_rows`` are of prompts. The texts gain ``tokens``.
    """

    texts: int
    drafted: int
    rows: int
    tokens: int
    lanes: int = 1
    prompt_rows: int = 0
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified proposal. ``path`` lists the accepted nodes from the root on. ``copied`` is the number of the text's
    tokens that n-gram lookup had proposed. ``times`` are those of the ``shared`` batch, None where the text was alone.
    """

    proposal: Proposal
    path: list[int]
    times: StepTimes
    copied: int = 0
    shared: Batch | None = None

    @property
    def batch(self) -> Batch:
        """The batch that the text was part of."""
        return self.shared or Batch(1, int(bool(self.proposal.exits)), len(self.proposal.tree), len(self.path))
