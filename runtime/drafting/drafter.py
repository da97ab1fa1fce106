"""The interface of drafters: sources of draft tokens. The sorted draft is one, n-gram lookup another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.drafting.calls import Calls
from runtime.drafting.policy import Prospect, StepBudget
from runtime.sampling.noise import DraftNoise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape


class DrafterSequence(Protocol):
    """One text in a drafter."""

    def prospect(self, room: int) -> Prospect:
        """What a step that may add ``room`` tokens to the text could draft."""

    def propose(self, builder: TreeBuilder, budget: StepBudget, noise: DraftNoise, room: int) -> Calls[Sequence[int]]:
        """Add candidates to the tree, at most ``room`` levels; returns the exit that answered at each drafted depth,
        as ``Proposal.exits``. Calls of engines are yielded, so that those of several texts run together.

        Drafters are called in their order, each once a step; those that grow the tree level by level come first.
        """

    def catch_up(self, rows: int) -> Calls[None]:
        """Run at most ``rows`` rows of the backlog, without drafting."""

    def learn(self, tokens: Sequence[int]) -> int:
        """Learn from the tokens that the text gained in this step; returns how many of them this drafter had proposed
        without running a model.
        """

    def follow(self, tokens: Sequence[int]) -> bool:
        """Commit ``tokens`` to the text; False where this drafter can no longer hold it. It is then released."""

    def release(self) -> None:
        """Give back what the text holds."""


class Drafter(Protocol):
    """A source of draft tokens for any number of texts."""

    def lease(self, prompt: Sequence[int], shape: TreeShape) -> DrafterSequence | None:
        """Begin a text; None where this drafter cannot hold it."""
