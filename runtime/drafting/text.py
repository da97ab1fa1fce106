"""Drafting for one text: all its drafters, and the policy that prices what they do."""

from __future__ import annotations

import math
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
FRUITLESS = 4
"""After so many steps in a row with nothing to verify, a text looks for something now and then only."""
LOOK_MS, LOOK_SHARE, LONGEST_REST = 0.06, 0.005, 15
"""Looking for something takes about so many milliseconds, and then at most this share of the time, but for resting at
most so many steps: with a small target it would take several per cent."""


@dataclass(slots=True)
class TextDrafting:
    """Proposes what to verify in each step of one text. With ``chain``, trees are cut to their best chain."""

    sequences: list[DrafterSequence]
    planner: StepPlanner
    shape: TreeShape
    noise: DraftNoise
    chain: bool
    budget: StepBudget = field(init=False)
    """Of the current step, or of the last one that looked for something."""
    _fruitless: int = 0
    """Looks in a row that found nothing to verify."""
    _rest: int = 0
    """Steps to come that look for nothing."""
    _step_ms: float = math.inf
    """The text's share of the last step's milliseconds."""
    _resting: bool = False
    """Whether the current step looks for nothing."""
    _untold: list[int] = field(default_factory=list)
    """Tokens that the drafters have not been told of."""

    def rests(self) -> bool:
        """Begin a step; whether it looks for nothing, so that ``propose`` is not called."""
        self._resting = self._rest > 0
        self._rest -= self._resting
        return self._resting

    def propose(self, root_token: int, room: int, load: Load = ALONE) -> Calls[Proposal]:
        """A tree below ``root_token``, the last token of the text, to which the step may add ``room`` tokens."""
        proposal = yield from self._look(root_token, room, load)
        fruitless = len(proposal.tree) == 1 and not self.planner.expects_to_draft(load)
        self._fruitless = self._fruitless + 1 if fruitless else 0
        if self._fruitless > FRUITLESS:
            self._rest = min(LONGEST_REST, int(LOOK_MS / (LOOK_SHARE * self._step_ms)))
        return proposal

    def _look(self, root_token: int, room: int, load: Load) -> Calls[Proposal]:
        if self._untold:
            self._tell(self._untold)
            self._untold = []
        prospects = [sequence.prospect(room) for sequence in self.sequences]
        backlogs = [prospect.backlog for prospect in prospects if prospect.backlog is not None]
        # The other texts of a batch do not wait for all of a prompt.
        if behind := load.texts > 1 and max(backlogs, default=0) > CATCH_UP_ROWS:
            yield from self.catch_up(CATCH_UP_ROWS, load)
            backlogs = []
        copied = max((prospect.copied for prospect in prospects), key=len, default=())
        self.budget = self.planner.plan(Prospect(backlogs[0] if backlogs else None, copied), load)
        if not (copied or any(prospect.forced for prospect in prospects) or (backlogs and self.budget.drafts)):
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
        self._step_ms = outcome.times.total * 1e3 / outcome.batch.texts
        self.planner.learn(self.budget, outcome)

    def follow(self, tokens: Sequence[int]) -> int:
        """Note which tokens the text gained; returns how many of them were copied from the text."""
        if self._resting:
            self._untold += tokens
            return 0
        return self._tell(tokens)

    def _tell(self, tokens: Sequence[int]) -> int:
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
