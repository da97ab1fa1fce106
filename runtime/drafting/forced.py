"""Tokens that a grammar forces, drafted without running a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.drafting.averages import FadingMean
from runtime.drafting.calls import Calls
from runtime.drafting.policy import Prospect, StepBudget
from runtime.sampling.grammar import GrammarRule
from runtime.sampling.noise import DraftNoise
from runtime.text.prefix import common_prefix
from runtime.tree.builder import TreeBuilder

PRIOR, PRIOR_WEIGHT, MEMORY = 0.95, 16.0, 256.0
"""Assumed probability that a forced token is accepted: the target may cut the forced characters in another way."""


class ForcedOdds:
    """How often forced tokens are accepted by one target."""

    def __init__(self) -> None:
        self.accepted = FadingMean(PRIOR, PRIOR_WEIGHT, MEMORY)


class ForcedSequence:
    """One text under ``grammar``, which is where the text is."""

    def __init__(self, odds: ForcedOdds, grammar: GrammarRule) -> None:
        self._odds, self._grammar = odds, grammar
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def prospect(self, room: int) -> Prospect:
        """Ask the grammar for at most ``room`` tokens."""
        self._tokens = self._grammar.forced()[: max(room, 0)]
        logprob = math.log(self._odds.accepted.value)
        self._logprobs = [logprob * count for count in range(1, len(self._tokens) + 1)]
        return Prospect(None, self._logprobs)

    def propose(self, builder: TreeBuilder, budget: StepBudget, noise: DraftNoise, room: int) -> Calls[Sequence[int]]:
        """Merge the tokens into the tree; no engine is called."""
        builder.graft(self._tokens, self._logprobs)
        yield from ()
        return ()

    def catch_up(self, rows: int) -> Calls[None]:
        """Nothing waits."""
        yield from ()

    def learn(self, tokens: Sequence[int]) -> int:
        """Learn how many of the tokens were right."""
        agreed = common_prefix(self._tokens, tokens)
        for index in range(min(agreed + 1, len(self._tokens), len(tokens))):
            self._odds.accepted.observe(float(index < agreed))
        return agreed

    def follow(self, tokens: Sequence[int]) -> bool:
        """The grammar follows with the target's choices."""
        self._tokens = []
        return True

    def release(self) -> None:
        """Nothing is held."""
