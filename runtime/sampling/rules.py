"""Rules on a text: each changes the scores from which the next token is chosen.

A rule has its state along one path of tokens. The target's choice at a visited node applies all rules, in their order;
nothing else decides the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np

from s2d_trt.errors import OptionError

Processor = Callable[[Sequence[int], np.ndarray], np.ndarray]
"""A user's function of the tokens so far, prompt included, and the scores float32 ``[V]``; it returns scores."""


class Rule(ABC):
    """One rule on one text."""

    shifts = True
    """Whether it only adds to scores, -inf included, by what it knows before them: then a draft can follow it."""

    bans = False
    """Whether it only forbids tokens, by what it knows before their scores."""

    @property
    def ended(self) -> bool:
        """Whether it ends the text here."""
        return False

    def allows(self, token: int) -> bool:
        """Whether a rule that bans lets ``token`` follow."""
        return True

    def few(self) -> np.ndarray | None:
        """The ids that a rule which bans allows, where it knows them to be few."""
        return None

    @abstractmethod
    def apply(self, scores: np.ndarray) -> np.ndarray:
        """The next token's scores float32 ``[V]`` under this rule; ``scores`` may be returned but not written to."""

    def follow(self, token: int) -> None:  # noqa: B027  some rules have no state
        """``token`` joins the text."""

    def fork(self) -> Rule:
        """The same rule in the same state, for a path that goes on by itself."""
        return copy(self)

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may follow, as far as that is known without scores."""
        return len(tokens)

    def forced(self) -> Sequence[int]:
        """Tokens that follow since the rule bans all others."""
        return ()


class RepetitionPenalty(Rule):
    """CTRL's penalty on all tokens of the text, prompt included."""

    shifts = False

    def __init__(self, penalty: float, prompt: Sequence[int], vocab_size: int) -> None:
        self._penalty, self._in_text = np.float32(penalty), np.zeros(vocab_size, dtype=bool)
        self._in_text[list(prompt)] = True

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Divide positive scores, multiply negative ones."""
        penalised = np.where(scores > 0, scores / self._penalty, scores * self._penalty)
        return np.where(self._in_text, penalised, scores)

    def follow(self, token: int) -> None:
        """Penalise it from now on."""
        self._in_text[token] = True


class CountPenalty(Rule):
    """OpenAI's frequency and presence penalties, on new tokens only."""

    def __init__(self, frequency: float, presence: float, vocab_size: int) -> None:
        self._frequency, self._presence = frequency, presence
        self._counts: dict[int, int] = {}
        self._amounts = np.zeros(vocab_size, np.float32)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Subtract what each token has gathered."""
        penalised: np.ndarray = scores - self._amounts
        return penalised

    def follow(self, token: int) -> None:
        """Count it."""
        count = self._counts[token] = self._counts.get(token, 0) + 1
        self._amounts[token] = self._frequency * count + self._presence

    def fork(self) -> CountPenalty:
        """With counts of its own."""
        fork = copy(self)
        fork._counts, fork._amounts = dict(self._counts), self._amounts.copy()
        return fork


class LogitBias(Rule):
    """A number added to the scores of some tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids, self._bias = np.array([*bias]), np.array([*bias.values()], np.float32)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Add the bias."""
        biased = scores.copy()
        biased[self._ids] += self._bias
        return biased


class UserProcessors(Rule):
    """The user's own functions, in their order."""

    shifts = False

    def __init__(self, processors: Sequence[Processor], prompt: Sequence[int]) -> None:
        self._processors, self._tokens = processors, list(prompt)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Call them. Raises OptionError where one returns something else than scores."""
        for processor in self._processors:
            result = processor(self._tokens, scores.copy())
            if problem := _problem(result, scores):
                name = getattr(processor, "__name__", type(processor).__name__)
                raise OptionError(f"processor {name} returned {problem}")
            scores = result.astype(np.float32, copy=False)
        return scores

    def follow(self, token: int) -> None:
        """Add it to the tokens so far."""
        self._tokens.append(token)


def _problem(result: object, scores: np.ndarray) -> str:
    """What is wrong with a processor's result; empty if nothing is."""
    if not isinstance(result, np.ndarray):
        return f"{type(result).__name__}; it must return an array {list(scores.shape)} of numbers"
    if result.shape != scores.shape or result.dtype.kind not in "biuf":
        given = f"an array {list(result.shape)} of {result.dtype}"
        return f"{given}; it must return an array {list(scores.shape)} of numbers"
    return "an infinite score; add a large number to prefer a token" if result.max() == np.inf else ""


class BadWords(Rule):
    """Sequences of tokens that the text never completes. One may begin in the prompt."""

    bans = True

    def __init__(self, words: Sequence[Sequence[int]], prompt: Sequence[int]) -> None:
        self._words = [(list(word[:-1]), word[-1]) for word in words]
        self._longest = max(map(len, words)) - 1
        self._latest = list(prompt)[-self._longest :] if self._longest else []

    def allows(self, token: int) -> bool:
        """Whether it completes no sequence."""
        return token not in self._banned()

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Ban the last token of a sequence whose others are the latest tokens."""
        return _without(scores, self._banned())

    def _banned(self) -> list[int]:
        return [last for before, last in self._words if not before or self._latest[-len(before) :] == before]

    def follow(self, token: int) -> None:
        """Remember it."""
        self._latest = [*self._latest, token][-self._longest :] if self._longest else []


class MinTokens(Rule):
    """No token that ends the text before there are so many new ones."""

    bans = True

    def __init__(self, least: int, ends: Sequence[int]) -> None:
        self._left, self._ends = least, [*ends]

    def allows(self, token: int) -> bool:
        """Whether it does not end the text, or may."""
        return self._left <= 0 or token not in self._ends

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Ban the tokens that end the text."""
        return _without(scores, self._ends) if self._left > 0 else scores

    def follow(self, token: int) -> None:
        """Count it."""
        self._left -= 1


def _without(scores: np.ndarray, banned: list[int]) -> np.ndarray:
    if not banned:
        return scores
    scores = scores.copy()
    scores[banned] = -np.inf
    return scores
