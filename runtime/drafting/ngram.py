"""Continuations copied from the text itself: what followed when its latest tokens occurred before.

Prompt lookup (Saxena 2023): they cost no pass of any model, and stand in the tree beside the draft's own candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.drafting.calibration import Fading

LENGTHS = (2, 4, 8)
"""Of the passages that are looked for, in tokens."""
LONGEST = 16
"""Most tokens of a guess."""
PRIORS = (0.25, 0.4, 0.6, 0.7, 0.8)
"""How often a token is right after a passage of 2, 4, 6, 8, 10 or more tokens, before anything was seen."""
MEMORY = 256.0


@dataclass(frozen=True, slots=True)
class NgramDraft:
    """``tokens`` that may follow, since they did so after an earlier passage of ``matched`` tokens."""

    tokens: list[int]
    matched: int

    def agreement(self, tokens: Sequence[int]) -> int:
        """How many of its first tokens are those of ``tokens``."""
        pairs = zip(self.tokens, tokens, strict=False)
        return next(
            (count for count, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(self), len(tokens))
        )

    def __len__(self) -> int:
        return len(self.tokens)


class NgramIndex:
    """Where each passage of one text was last seen."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Add to the text."""
        text = self._text
        for token in tokens:
            # A passage is entered once it has a continuation, so that none finds itself.
            for length in LENGTHS:
                if len(text) < length:
                    break
                self._after[tuple(text[-length:])] = len(text)
            text.append(token)

    def guess(self, most: int) -> NgramDraft | None:
        """At most ``most`` tokens after the longest passage that ends the text and occurred before."""
        text, most = self._text, min(most, LONGEST)
        for length in reversed(LENGTHS):
            start = self._after.get(tuple(text[-length:])) if len(text) >= length else None
            if start is not None and most > 0:
                # A passage that reaches the text's end repeats itself.
                period = len(text) - start
                return NgramDraft([text[start + index % period] for index in range(most)], length)
        return None


class NgramOdds:
    """How often the tokens of guesses are right, by how many tokens agree before them."""

    def __init__(self) -> None:
        self._right = [Fading(prior, 16.0, MEMORY) for prior in PRIORS]

    def logprobs(self, guess: NgramDraft) -> list[float]:
        """The log-probability that each token and all before it are right."""
        total, found = 0.0, []
        for index in range(len(guess)):
            total += math.log(self._of(guess.matched + index).value)
            found.append(total)
        return found

    def observe(self, guess: NgramDraft, tokens: Sequence[int]) -> None:
        """Learn from what the text went on with, whether or not the guess was put to the target."""
        agreed = guess.agreement(tokens)
        for index in range(min(agreed + 1, len(guess), len(tokens))):
            self._of(guess.matched + index).observe(float(index < agreed))

    def _of(self, agreeing: int) -> Fading:
        return self._right[min(agreeing // 2, len(PRIORS)) - 1]
