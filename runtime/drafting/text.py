"""Drafting for one text: all its drafters, and the policy that prices what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.drafting.calls import Calls
from runtime.drafting.drafter import DrafterSequence
from runtime.drafting.policy import ALONE, Load, Prospect, StepBudget, StepPlanner
from runtime.drafting.proposal import Outcome, Proposal
from runtime.sampling.noise import DraftNoise
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

CATCH_UP_ROWS = 64
"""Most rows of a text's backlog in one step, where the text is not alone."""


@dataclass(slots=True)
class TextDrafting:
    """Proposes what to verify in each step of one text. With ``chain``, trees are cut to their best chain."""

    sequences: list[DrafterSequence]
    planner: StepPlanner
    shape: TreeShape
    noise: DraftNoise
    chain: bool
    budget: StepBudget = field(init=False)
    """Of the current step."""

    def propose(self, root_token: int, room: int, load: Load = ALONE) -> Calls[Proposal]:
        """A tree below ``root_token``, the last token of the text, to which the step may add ``room`` tokens."""
        prospects = [sequence.prospect(room) for sequence in self.sequences]
        backlogs = [prospect.backlog for prospect in prospects if prospect.backlog is not None]
        # The other texts of a batch do not wait for all of a prompt.
        if behind := load.texts > 1 and max(backlogs, default=0) > CATCH_UP_ROWS:
            yield from self.catch_up(CATCH_UP_ROWS, load)
            backlogs = []
        copied = max((prospect.copied for prospect in prospects), key=len, default=())
        self.budget = self.planner.plan(Prospect(backlogs[0] if backlogs else None, copied), load)
        if not copied and not (backlogs and self.budget.drafts):
            return Proposal(Tree.chain([root_token]))
        builder = self.budget.grow(root_token, self.shape)
        exits: list[int] = []
        for sequence, prospect in zip(self.sequences, prospects, strict=True):
            if not (behind and prospect.backlog is not None):
                exits += yield from sequence.propose(builder, self.budget, self.noise, room)
        return Proposal(builder.finish(self.budget.size, self.chain), exits)

    def catch_up(self, rows: int, load: Load) -> Calls[None]:
        """Let drafters run at most ``rows`` rows of their backlog, if they are expected to draft afterwards."""
        if self.planner.expects_to_draft(load):
            for sequence in self.sequences:
                yield from sequence.catch_up(rows)

    def learn(self, outcome: Outcome) -> None:
        """Take note of what the target accepted, and of the time that the step took."""
        self.planner.learn(self.budget, outcome)

    def follow(self, tokens: Sequence[int]) -> int:
        """Tell every drafter which tokens the text gained; returns how many of them were copied from the text."""
        copied = max((sequence.learn(tokens) for sequence in self.sequences), default=0)
        for sequence in list(self.sequences):
            if not sequence.follow(tokens):
                self.sequences.remove(sequence)
                sequence.release()
        return copied

    def release(self) -> None:
        """Give back what the drafters hold."""
        while self.sequences:
            self.sequences.pop().release()
