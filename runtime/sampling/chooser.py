"""The choice of a token: ``argmax(processed logits + T * gumbel)`` among the tokens that the filters keep."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from runtime.sampling.filters import kept_tokens
from runtime.sampling.noise import Noise
from runtime.sampling.options import Sampling


class Chooser:
    """Chooses the tokens of one text from the target's logits; remembers which tokens the text holds.

    ``chosen_scores`` lists the score of each chosen token: two runs that agree in them bit for bit agree in more than
    their tokens.
    """

    def __init__(self, sampling: Sampling, noise: Noise, vocab_size: int) -> None:
        self._sampling, self._noise = sampling, noise
        self._penalises = sampling.repetition_penalty != 1.0
        self._in_text = np.zeros(vocab_size if self._penalises else 0, dtype=bool)
        self.chosen_scores: list[float] = []

    def observe(self, tokens: Iterable[int]) -> None:
        """Count ``tokens`` as part of the text."""
        if self._penalises:
            self._in_text[np.fromiter(tokens, dtype=np.int64)] = True

    def scores(self, logits: np.ndarray, position: int) -> np.ndarray:
        """``processed + T * gumbel``, float32 ``[V]``, with filtered tokens at -inf."""
        processed = self._penalised(logits) if self._penalises else logits
        if self._sampling.temperature == 0:
            return processed
        noisy: np.ndarray = processed + self._noise.row(position)[: len(logits)]
        return np.where(kept_tokens(processed, self._sampling), noisy, -np.inf) if self._sampling.filters else noisy

    def choose(self, logits: np.ndarray, position: int) -> int:
        """The token at ``position``, given the target's ``logits`` float32 ``[V]`` there; it joins the text."""
        scores = self.scores(logits, position)
        token = int(scores.argmax())
        self.chosen_scores.append(float(scores[token]))
        self.observe((token,))
        return token

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        penalty = np.float32(self._sampling.repetition_penalty)
        penalised = np.where(logits > 0, logits / penalty, logits * penalty)
        return np.where(self._in_text[: len(logits)], penalised, logits)
