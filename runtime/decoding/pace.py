"""How long the steps of a target take by their rows, learned from the steps themselves."""

from __future__ import annotations

CALL_IN_ROWS = 16
"""Until steps were seen, a call is taken to cost as much as so many of its rows."""
MEMORY = 64
"""Steps after which one has lost about two thirds of its weight."""
LARGEST_RISE = 3.0
"""A step that takes more than so many times what was expected counts as this much: a first call is slow, and so is a
call that another process interrupts."""
LONGER = 0.6
"""Share of a step's usual time that chunks add for each prompt that is read."""


class Pace:
    """A line through the steps' times: what a step costs, and what each row adds to it."""

    def __init__(self) -> None:
        self._weight = self._rows = self._time = self._squares = self._products = 0.0
        self._row_seconds = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Take note of a step in which texts decoded; ``rows`` are those of its call, prompts included."""
        if not self._weight:
            call = seconds / (1.0 + rows / CALL_IN_ROWS)
            self._row_seconds = call / CALL_IN_ROWS
            self._add(0, call)
            self._add(CALL_IN_ROWS, 2.0 * call)
        self._add(rows, min(seconds, LARGEST_RISE * self.seconds(rows)))
        rows_mean, time_mean = self._rows / self._weight, self._time / self._weight
        variance = self._squares / self._weight - rows_mean**2
        covariance = self._products / self._weight - rows_mean * time_mean
        # Where all steps have as many rows, what a row adds is what it added before.
        self._row_seconds = max(0.0, (covariance + self._row_seconds) / (variance + 1.0))

    def seconds(self, rows: float) -> float:
        """Expected seconds of a step with so many rows."""
        return max(0.0, self._time + self._row_seconds * (rows * self._weight - self._rows)) / self._weight

    def room(self, decoding_rows: int, prompts: int) -> float:
        """Rows of ``prompts`` prompts beside texts that have ``decoding_rows``.

        One prompt makes the steps of the others less than twice as long. Several together add as much as one after
        another: with less, prompts pile up under load, so that texts wait long for their first token and few share
        the calls.
        """
        longer = LONGER * prompts
        if not self._weight:
            return longer * (CALL_IN_ROWS + decoding_rows)
        return longer * self.seconds(decoding_rows) / max(self._row_seconds, 1e-9)

    def _add(self, rows: float, seconds: float) -> None:
        keep = 1.0 - 1.0 / MEMORY
        self._weight = keep * self._weight + 1.0
        self._rows = keep * self._rows + rows
        self._time = keep * self._time + seconds
        self._squares = keep * self._squares + rows * rows
        self._products = keep * self._products + rows * seconds
