"""Tokens that a grammar forces, drafted without running a model."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.drafting.calls import Calls
from runtime.drafting.policy import Prospect, StepBudget
from runtime.sampling.grammar import GrammarRule
from runtime.sampling.noise import DraftNoise
from runtime.text.prefix import common_prefix
from runtime.tree.builder import TreeBuilder


class ForcedSequence:
    """One text under ``grammar``, which is where the text is. Draft models go on behind forced tokens by themselves;
    this drafter proposes them where no model runs.
    """

    def __init__(self, grammar: GrammarRule) -> None:
        self._grammar = grammar
        self._tokens: list[int] = []

    def prospect(self, room: int) -> Prospect:
        """Ask the grammar for at most ``room`` tokens."""
        self._tokens = self._grammar.forced()[: max(room, 0)]
        return Prospect(None, forced=len(self._tokens))

    def propose(self, builder: TreeBuilder, budget: StepBudget, noise: DraftNoise, room: int) -> Calls[Sequence[int]]:
        """Merge the tokens into the tree; no engine is called."""
        builder.graft(self._tokens, [0.0] * len(self._tokens))
        yield from ()
        return ()

    def catch_up(self, rows: int) -> Calls[None]:
        """Nothing waits."""
        yield from ()

    def learn(self, tokens: Sequence[int]) -> int:
        """How many of the tokens the text gained; the others ended it, or met another rule."""
        return common_prefix(self._tokens, tokens)

    def follow(self, tokens: Sequence[int]) -> bool:
        """The grammar follows with the target's choices."""
        self._tokens = []
        return True

    def release(self) -> None:
        """Nothing is held."""
