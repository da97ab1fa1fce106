"""How much faster texts gain tokens than without drafting, estimated while nothing runs without it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.decoding.batch import CallReport
from runtime.drafting.averages import FadingMean

LATEST_CALLS = 64
"""Calls after which one has lost about two thirds of its weight in the speed-up of now."""
ENOUGH_CALLS, FRESH_SECONDS = 16, 60.0
"""Observations of calls without drafts that are held against the measured costs: so many, and none so long ago."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a call with everything around it, and those that its tokens would have taken without drafting."""

    seconds: float
    plain_seconds: float


@dataclass(slots=True)
class _Slowness:
    """Observed over expected time of one kind of calls."""

    mean: FadingMean = field(default_factory=lambda: FadingMean(0.0, 0.0, ENOUGH_CALLS))
    calls: int = 0
    latest: float = 0.0

    def observe(self, slowness: float) -> None:
        self.mean.observe(slowness)
        self.calls += 1
        self.latest = time.monotonic()

    @property
    def is_known(self) -> bool:
        return self.calls >= ENOUGH_CALLS and time.monotonic() - self.latest < FRESH_SECONDS


class SpeedUp:
    """The speed-up of one target's texts.

    Without drafting the call would have had one row for each text, and there would have been a call for each token. By
    how much a call of fewer rows is shorter comes from the measured costs, corrected by calls that verified no draft
    where there were such lately; how fast the machine is now comes from the call itself. The host's work for a token
    comes from calls that verified no draft; before the first of them it is taken to be that of the drafted ones, which
    makes the estimate too low, not too high.
    """

    def __init__(self) -> None:
        self._plain_slowness, self._drafted_slowness = _Slowness(), _Slowness()
        self._host: FadingMean | None = None
        """Seconds of the host for a token, in calls that verified no draft."""
        self._seconds, self._plain = FadingMean(0.0, 0.0, LATEST_CALLS), FadingMean(0.0, 0.0, LATEST_CALLS)
        self.ratio = 1.0
        """Of the latest calls."""

    def observe(self, report: CallReport) -> Estimate | None:
        """The estimate for one call; None where it says nothing: it held a part of a prompt, or costs are not known."""
        batch, times, costs = report.batch, report.times, report.pair.costs
        if not batch.texts or batch.prompt_rows or costs is None:
            return None
        host = max(0.0, times.total - times.draft - times.verify)
        slowness = times.verify * 1e3 / costs.verify_ms(batch.rows, batch.lanes, batch.context)
        if batch.rows == batch.texts:
            self._plain_slowness.observe(slowness)
            if self._host is None:
                self._host = FadingMean(0.0, 0.0, LATEST_CALLS)
            self._host.observe(host / batch.texts)
            plain = times.verify + host
        else:
            self._drafted_slowness.observe(slowness)
            a_call = slowness * self._correction() * costs.verify_ms(batch.texts, batch.lanes, batch.context) / 1e3
            plain = a_call * batch.tokens / batch.texts
            plain += host if self._host is None else self._host.value * batch.tokens
        self._seconds.observe(times.total)
        self._plain.observe(plain)
        self.ratio = self._plain.value / self._seconds.value
        return Estimate(times.total, plain)

    def _correction(self) -> float:
        """How much slower calls without drafts are than calls with them, each against its measured cost."""
        plain, drafted = self._plain_slowness, self._drafted_slowness
        return plain.mean.value / drafted.mean.value if plain.is_known and drafted.is_known else 1.0
