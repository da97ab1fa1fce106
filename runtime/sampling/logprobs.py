"""Log-probabilities of tokens, from the scores that they are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.sampling.filters import largest


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural log-probability of ``token``, and the best tokens at its place, each with its own, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


def token_logprob(scores: np.ndarray, token: int, top: int) -> TokenLogprob:
    """``token`` and the ``top`` best tokens of ``softmax(scores)``; of equal ones the smallest ids are first.

    ``scores`` is float32 ``[V]``. Tokens of probability zero are not among the best.
    """
    best = float(scores.max())
    total = best + float(np.log(np.exp(scores.astype(np.float64) - best).sum()))
    ids = largest(scores, min(top, len(scores))) if top else np.zeros(0, np.int64)
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    ids = ids[scores[ids] > -np.inf]
    logprobs = scores[ids].astype(np.float64) - total
    return TokenLogprob(token, float(scores[token]) - total, list(zip(ids.tolist(), logprobs.tolist(), strict=True)))
