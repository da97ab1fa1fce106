"""How often the target accepts what the draft proposes with a given probability, learned while decoding."""

from __future__ import annotations

import math

LARGEST_ODDS = 15.0
"""Log-odds are cut off here: beyond it a probability carries no more information."""
CERTAIN = -math.exp(-LARGEST_ODDS)


def log_odds(logprob: float) -> float:
    """``log(p / (1 - p))`` of a log-probability, at most ``LARGEST_ODDS``; -inf for probability 0."""
    logprob = min(logprob, CERTAIN)
    return logprob - math.log(-math.expm1(logprob)) if logprob > -math.inf else logprob


class Calibration:
    """Logistic regression of acceptance on the log-odds of the draft's own probability (Platt scaling, 1999).

    It starts from trust in the draft, or from what is known of it, with the weight of a few dozen observations, and
    takes one Newton step for each observation. Old observations fade, so that it follows a text that changes.
    """

    FADING = 0.998
    PRIOR = 8.0

    def __init__(self, slope: float = 1.0, offset: float = 0.0) -> None:
        self.slope, self.offset = slope, offset
        # Second derivatives of the log-likelihood, the prior's included: slope-slope, slope-offset, offset-offset.
        self._ss, self._so, self._oo = self.PRIOR, 0.0, self.PRIOR / 4

    def apply(self, logprob: float) -> float:
        """The log-probability of acceptance, given the draft's own log-probability."""
        odds = log_odds(logprob)
        if odds == -math.inf:
            return odds
        odds = odds * self.slope + self.offset
        return odds - math.log1p(math.exp(odds)) if odds < 0 else -math.log1p(math.exp(-odds))

    def observe(self, logprob: float, accepted: bool) -> None:
        """Learn whether the target accepted a candidate; ``logprob`` is the draft's own and above -inf."""
        raw = log_odds(logprob)
        odds = max(-LARGEST_ODDS, min(LARGEST_ODDS, raw * self.slope + self.offset))
        predicted = 1.0 / (1.0 + math.exp(-odds))
        error, weight = accepted - predicted, max(predicted * (1.0 - predicted), 1e-3)
        self._ss = self._fade(self._ss, self.PRIOR) + weight * raw * raw
        self._so = self._fade(self._so, 0.0) + weight * raw
        self._oo = self._fade(self._oo, self.PRIOR / 4) + weight
        determinant = self._ss * self._oo - self._so * self._so
        self.slope += error * (raw * self._oo - self._so) / determinant
        self.offset += error * (self._ss - raw * self._so) / determinant
        # The slope stays positive: the order of the draft's candidates is kept even where it carries no information.
        self.slope = min(4.0, max(0.1, self.slope))

    def _fade(self, value: float, prior: float) -> float:
        return prior + self.FADING * (value - prior)
