"""N-gram lookup: continuations copied from the text itself (prompt lookup decoding, Saxena 2023).

Where the latest tokens of a text occurred before, what followed them then may follow again. Such a draft costs no pass
of any model; it is merged into the tree beside the draft model's candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.drafting.averages import FadingMean
from runtime.drafting.calls import Calls
from runtime.drafting.policy import Prospect, StepBudget
from runtime.sampling.noise import DraftNoise
from runtime.text.prefix import common_prefix
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape

MATCH_LENGTHS = (2, 4, 8)
"""Lengths of the n-grams that are looked up, in tokens."""
LONGEST_DRAFT = 16
"""Most tokens of one draft."""
PRIORS = (0.25, 0.4, 0.6, 0.7, 0.8)
"""Assumed probability that a token is right after a match of 2, 4, 6, 8, 10 or more tokens."""
PRIOR_WEIGHT, MEMORY = 16.0, 256.0


@dataclass(frozen=True, slots=True)
class NgramDraft:
    """``tokens`` followed an earlier occurrence of the latest ``matched`` tokens."""

    tokens: list[int]
    matched: int

    def agreement(self, tokens: Sequence[int]) -> int:
        """The length of the common prefix with ``tokens``."""
        return common_prefix(self.tokens, tokens)

    def __len__(self) -> int:
        return len(self.tokens)


class NgramIndex:
    """The latest occurrence of each n-gram of one text."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._continuations: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Add ``tokens`` to the text."""
        text = self._text
        for token in tokens:
            # An n-gram is entered when its continuation is known, so that the text's end does not match itself.
            for length in MATCH_LENGTHS:
                if len(text) < length:
                    break
                self._continuations[tuple(text[-length:])] = len(text)
            text.append(token)

    def draft(self, most: int) -> NgramDraft | None:
        """At most ``most`` tokens that followed the longest n-gram which ends the text; None where there is none."""
        text, most = self._text, min(most, LONGEST_DRAFT)
        for length in reversed(MATCH_LENGTHS):
            start = self._continuations.get(tuple(text[-length:])) if len(text) >= length else None
            if start is not None and most > 0:
                # A continuation that reaches the end of the text repeats itself.
                period = len(text) - start
                return NgramDraft([text[start + index % period] for index in range(most)], length)
        return None


class NgramOdds:
    """How often tokens of n-gram drafts are accepted, by the number of tokens that match before them."""

    def __init__(self) -> None:
        self._accepted = [FadingMean(prior, PRIOR_WEIGHT, MEMORY) for prior in PRIORS]

    def logprobs(self, draft: NgramDraft) -> list[float]:
        """For each token, the log-probability that it and all tokens before it are accepted."""
        total, cumulative = 0.0, []
        for index in range(len(draft)):
            total += math.log(self._after(draft.matched + index).value)
            cumulative.append(total)
        return cumulative

    def observe(self, draft: NgramDraft, tokens: Sequence[int]) -> None:
        """Learn from the tokens that the text gained, whether or not the draft was verified."""
        agreed = draft.agreement(tokens)
        for index in range(min(agreed + 1, len(draft), len(tokens))):
            self._after(draft.matched + index).observe(float(index < agreed))

    def _after(self, matching: int) -> FadingMean:
        return self._accepted[min(matching // 2, len(PRIORS)) - 1]


class NgramLookup:
    """The n-gram drafter of one target; its texts learn from each other how often copied tokens are accepted."""

    def __init__(self) -> None:
        self.odds = NgramOdds()

    def lease(self, prompt: Sequence[int], shape: TreeShape) -> NgramSequence:
        """Any text will do."""
        return NgramSequence(self.odds, prompt)


class NgramSequence:
    """One text in the n-gram drafter."""

    def __init__(self, odds: NgramOdds, prompt: Sequence[int]) -> None:
        self._odds, self._index = odds, NgramIndex()
        self._draft: NgramDraft | None = None
        self._logprobs: list[float] = []
        self._index.extend(prompt)

    def prospect(self, room: int) -> Prospect:
        """Look up a draft of at most ``room`` tokens."""
        self._draft = self._index.draft(room)
        self._logprobs = [] if self._draft is None else self._odds.logprobs(self._draft)
        return Prospect(None, self._logprobs)

    def propose(self, builder: TreeBuilder, budget: StepBudget, noise: DraftNoise, room: int) -> Calls[Sequence[int]]:
        """Merge the draft into the tree; no engine is called."""
        if self._draft is not None:
            admitted = noise.admitted(self._draft.tokens)
            builder.graft(self._draft.tokens[:admitted], self._logprobs[:admitted])
        yield from ()
        return ()

    def catch_up(self, rows: int) -> Calls[None]:
        """Nothing waits."""
        yield from ()

    def learn(self, tokens: Sequence[int]) -> int:
        """Learn how much of the draft was right."""
        if self._draft is None:
            return 0
        self._odds.observe(self._draft, tokens)
        return self._draft.agreement(tokens)

    def follow(self, tokens: Sequence[int]) -> bool:
        """Add ``tokens`` to the index."""
        self._index.extend(tokens)
        self._draft = None
        return True

    def release(self) -> None:
        """The index goes with this object."""
