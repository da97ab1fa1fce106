"""How often the target accepts what the draft proposes with a given probability, learned while decoding."""

from __future__ import annotations

import math

MOST = 15.0
"""Log-odds are cut off here: beyond, a probability says no more."""
CERTAIN = -math.exp(-MOST)


class Calibration:
    """Logistic regression of acceptance on the log-odds of the draft's own probability (Platt scaling).

    Starts from trusting the draft, with the weight of a few dozen observations, and takes one Newton step for each
    observation; old ones fade, so that it follows a text that changes.
    """

    FADING = 0.998
    PRIOR = 8.0

    def __init__(self) -> None:
        self.slope, self.offset = 1.0, 0.0
        # Second derivatives of the log-likelihood, the prior's included: slope-slope, slope-offset, offset-offset.
        self._ss, self._so, self._oo = self.PRIOR, 0.0, self.PRIOR / 4

    def apply(self, logprob: float) -> float:
        """The log-probability of acceptance for the draft's own."""
        logprob = min(logprob, CERTAIN)
        if logprob == -math.inf:
            return logprob
        odds = (logprob - math.log(-math.expm1(logprob))) * self.slope + self.offset
        return odds - math.log1p(math.exp(odds)) if odds < 0 else -math.log1p(math.exp(-odds))

    def undo(self, log_odds: float) -> float:
        """The draft's own log-odds behind calibrated ones."""
        return (log_odds - self.offset) / self.slope

    def observe(self, raw: float, accepted: bool) -> None:
        """Learn from one candidate whose parent was accepted; ``raw`` are the draft's own log-odds."""
        predicted = 1.0 / (1.0 + math.exp(-max(-MOST, min(MOST, raw * self.slope + self.offset))))
        error, weight = accepted - predicted, max(predicted * (1.0 - predicted), 1e-3)
        self._ss = self._fade(self._ss, self.PRIOR) + weight * raw * raw
        self._so = self._fade(self._so, 0.0) + weight * raw
        self._oo = self._fade(self._oo, self.PRIOR / 4) + weight
        determinant = self._ss * self._oo - self._so * self._so
        self.slope += error * (raw * self._oo - self._so) / determinant
        self.offset += error * (self._ss - raw * self._so) / determinant
        # A draft whose order says nothing is told apart by the offset; the order itself is kept.
        self.slope = min(4.0, max(0.1, self.slope))

    def _fade(self, value: float, prior: float) -> float:
        return prior + self.FADING * (value - prior)


class Fading:
    """A mean in which old observations fade; starts as ``value`` with the weight of ``prior`` observations."""

    def __init__(self, value: float, prior: float, memory: float) -> None:
        self._sum, self._weight, self._keep = value * prior, prior, 1.0 - 1.0 / memory

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._weight

    def observe(self, amount: float, weight: float = 1.0) -> None:
        """Add ``amount``, a sum over ``weight`` observations."""
        self._sum = self._sum * self._keep + amount
        self._weight = self._weight * self._keep + weight
