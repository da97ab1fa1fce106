"""How the target's next token is chosen: lossless per seed, not only in distribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from runtime.decoding.noise import Noise
from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options that decide the text. The draft, the thresholds and the tree never do.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 keep every token; filters act on
    ``softmax(processed / temperature)`` in that order. ``repetition_penalty`` is CTRL's: logits of tokens
    already in the text are divided by it where positive and multiplied where negative.
    ``seed`` None draws one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise OptionError(f"temperature {self.temperature} must lie between 0 (greedy) and 100")
        if self.top_k < 0:
            raise OptionError(f"top-k {self.top_k} must be 0 (off) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise OptionError(f"top-p {self.top_p} must be above 0 and at most 1 (off)")
        if not 0.0 <= self.min_p < 1.0:
            raise OptionError(f"min-p {self.min_p} must be at least 0 (off) and below 1")
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise OptionError(f"repetition penalty {self.repetition_penalty} must be above 0 (1 is off)")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise OptionError(f"seed {self.seed} must be a whole number from 0 to 2^64 - 1")


class Chooser:
    """Chooses the token at a position from the target's logits; remembers which tokens the text holds."""

    def __init__(self, sampling: Sampling, noise: Noise, vocab_size: int) -> None:
        self._sampling, self._noise = sampling, noise
        self._seen = np.zeros(vocab_size, dtype=bool)
        self._plain = sampling.repetition_penalty == 1.0
        self._unfiltered = sampling.top_k == 0 and sampling.top_p == 1.0 and sampling.min_p == 0.0

    def see(self, tokens: Iterable[int]) -> None:
        """Count ``tokens`` as part of the text."""
        if not self._plain:
            self._seen[np.fromiter(tokens, dtype=np.int64)] = True

    def scores(self, logits: np.ndarray, position: int) -> np.ndarray:
        """``processed + T * gumbel`` with filtered tokens at -inf, float32 ``[V]``; the choice is its argmax."""
        processed: np.ndarray = logits if self._plain else self._penalise(logits)
        if self._sampling.temperature == 0:
            return processed
        noise = self._noise.row(position)[: len(logits)]
        noisy: np.ndarray = processed + noise
        return noisy if self._unfiltered else np.where(self._kept(processed), noisy, np.float32(-np.inf))

    def choose(self, logits: np.ndarray, position: int) -> int:
        """The token at ``position`` given the target's ``logits`` [V] there."""
        return int(self.scores(logits, position).argmax())

    def _penalise(self, logits: np.ndarray) -> np.ndarray:
        penalty = np.float32(self._sampling.repetition_penalty)
        penalised = np.where(logits > 0, logits / penalty, logits * penalty)
        return np.where(self._seen[: len(logits)], penalised, logits)

    def _kept(self, processed: np.ndarray) -> np.ndarray:
        options = self._sampling
        order = np.argsort(-processed, kind="stable")
        scaled = processed[order].astype(np.float64) / options.temperature
        probabilities = np.exp(scaled - scaled[0])
        if options.top_k:
            probabilities[options.top_k :] = 0.0
        probabilities /= probabilities.sum()
        kept = probabilities > 0
        if options.top_p < 1.0:
            # A token stays while the mass before it is below top_p, so the first always does.
            kept &= np.cumsum(probabilities) - probabilities < options.top_p
        if options.min_p > 0.0:
            kept &= probabilities >= options.min_p * probabilities[0]
        mask = np.zeros(len(processed), dtype=bool)
        mask[order[kept]] = True
        return mask
