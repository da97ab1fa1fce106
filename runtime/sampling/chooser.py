"""The choice of a token: ``argmax(processed logits + T * gumbel)`` among the tokens that the filters keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from runtime.sampling.filters import kept_tokens
from runtime.sampling.logprobs import TokenLogprob, token_logprob
from runtime.sampling.noise import Noise
from runtime.sampling.options import Sampling
from runtime.sampling.rules import Rule
from s2d_trt.errors import OptionError

LogprobsMode = Literal["raw", "processed"]


class Chooser:
    """Chooses the tokens of one text from the target's logits, under ``rules`` in their order.

    ``chosen_scores`` lists the score of each chosen token: two runs that agree in them bit for bit agree in more than
    their tokens. ``logprobs`` lists their log-probabilities, each with the ``top`` best tokens; nothing where ``top``
    is None.
    """

    def __init__(
        self,
        sampling: Sampling,
        noise: Noise,
        rules: Sequence[Rule] = (),
        top: int | None = None,
        mode: LogprobsMode = "raw",
    ) -> None:
        self._sampling, self._noise, self._top, self._mode = sampling, noise, top, mode
        self.rules = list(rules)
        last = max((place for place, rule in enumerate(self.rules, 1) if not rule.bans), default=0)
        self._shaping, self._banning = self.rules[:last], self.rules[last:]
        self._sees_bans = (sampling.filters and sampling.temperature > 0) or (top is not None and mode == "processed")
        """Whether more than the choice depends on which tokens are banned."""
        self.chosen_scores: list[float] = []
        self.logprobs: list[TokenLogprob] = []

    @property
    def ended(self) -> bool:
        """Whether a rule ends the text here."""
        return any(rule.ended for rule in self.rules)

    def follow(self, token: int) -> None:
        """``token`` joins the text."""
        for rule in self.rules:
            rule.follow(token)

    def scores(self, logits: np.ndarray, position: int) -> np.ndarray:
        """``processed + T * gumbel``, float32 ``[V]``, with banned and filtered tokens at -inf."""
        return self._with_noise(_under(self.rules, logits), position)

    def choose(self, logits: np.ndarray, position: int) -> int:
        """The token at ``position``, given the target's ``logits`` float32 ``[V]`` there; it joins the text.

        Raises:
            OptionError: the rules leave no token.
        """
        processed = _under(self.rules if self._sees_bans else self._shaping, logits)
        scores = self._with_noise(processed, position)
        token = int(scores.argmax())
        # The best of all tokens is the best of those that are allowed, if it is one of them: to ask so takes a
        # fraction of the time of a mask.
        if not (self._sees_bans or self._allows(token)):
            few = self._few()
            scores = _under(self._banning, scores) if few is None else scores
            token = int(scores.argmax() if few is None else few[scores[few].argmax()])
        score = float(scores[token])
        if self.rules and not score > -np.inf:
            raise OptionError("bans, bias and processors leave no token to choose; ask for less")
        self.chosen_scores.append(score)
        if self._top is not None:
            distribution = logits if self._mode == "raw" else self._distribution(processed)
            self.logprobs.append(token_logprob(distribution, token, self._top))
        self.follow(token)
        return token

    def _allows(self, token: int) -> bool:
        return all(rule.allows(token) for rule in self._banning)

    def _few(self) -> np.ndarray | None:
        """The ids to choose from, where they are known to be few and there is one rule that bans."""
        few = self._banning[0].few() if len(self._banning) == 1 else None
        return None if few is None or not len(few) else few

    def _with_noise(self, processed: np.ndarray, position: int) -> np.ndarray:
        if self._sampling.temperature == 0:
            return processed
        noisy: np.ndarray = processed + self._noise.row(position)[: len(processed)]
        return np.where(kept_tokens(processed, self._sampling), noisy, -np.inf) if self._sampling.filters else noisy

    def _distribution(self, processed: np.ndarray) -> np.ndarray:
        """The logits of the distribution that the choice samples; when greedy, the processed logits themselves."""
        if self._sampling.temperature == 0:
            return processed
        kept = kept_tokens(processed, self._sampling) if self._sampling.filters else True
        scaled: np.ndarray = np.where(kept, processed / np.float32(self._sampling.temperature), -np.inf)
        return scaled


def _under(rules: Sequence[Rule], scores: np.ndarray) -> np.ndarray:
    for rule in rules:
        scores = rule.apply(scores)
    return scores
