"""The interface of a backend.

A backend turns the graphs of a bundle into engines. The caches and hidden states of one sequence are a *context*, in
the memory of the backend's device. A call computes new cache rows ``[start, start + n)``. Each of them reads every row
before ``base``, and of the rows from ``base`` on those that ``visible`` marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from s2d_trt.bundle import Bundle

PREFILL_CHUNK = 128
"""Most rows in one call, of a prompt or of a draft's backlog."""


@dataclass(slots=True)
class Clock:
    """Seconds spent in engine calls, including the wait for their results."""

    seconds: float = 0.0


class Logits(Protocol):
    """Logits of a call's rows, on the host or a device; a NumPy array is one."""

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Row ``row``, float32 ``[V]``; valid until the next call, or until another row is fetched."""


class Cascade(Protocol):
    """A depth of drafting in one launch: the device decides which exit answers."""

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Pass the arguments of ``DraftContext.forward`` for one segment; every segment, in order, before ``run``."""

    def run(
        self,
        start: int,
        stop: int,
        noise: np.ndarray,
        paths: np.ndarray,
        thresholds: Sequence[float],
        largest: bool,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Run segments and head until an exit's confidence at rows ``[start, stop)`` is above its threshold.

        ``paths`` float64 ``[stop - start]`` are the frontier's cumulative log-probabilities. With ``largest`` the
        largest confidence counts instead of the mean. The last exit always answers. Returns what
        ``DraftContext.candidates`` returns, and the index of the exit; the segments up to it have run.
        """


class DraftContext(Protocol):
    """The caches and hidden states of one sequence in a draft's engines."""

    clock: Clock
    cascade: Cascade | None
    """None where the host decides which exit answers."""

    def forward(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Run rows ``[start, start + n)`` through a segment; their hidden states stay in the context.

        ``tokens`` and ``positions`` are int64 ``[n]``, ``visible`` is bool ``[n, start + n - base]``. Segment 0
        reads the tokens, every other segment the hidden states that the one before it wrote at these rows.
        """

    def candidates(self, segment: int, start: int, stop: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the head on the hidden states that ``segment`` wrote at rows ``[start, stop)``.

        ``noise`` float32 ``[<= V]`` is added to the logits; ids beyond its end are never returned. Do not write to it
        afterwards. Returns ids int64 and log-probabilities float32, both ``[stop - start, head_top_k]``, best first;
        the next call overwrites them.
        """

    def reset(self) -> None:
        """Prepare for another text: zero what was used since the last reset (a NaN in a masked slot would leak)."""

    def wait(self) -> None:
        """Wait until every call is done; only measurements need this."""


class TargetContext(Protocol):
    """The cache of one sequence in a target's engine."""

    clock: Clock

    def forward(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        start: int,
        visible: np.ndarray,
        logit_rows: np.ndarray,
        exact_rows: int = 0,
    ) -> Logits:
        """Run rows ``[start, start + n)``, all of which read the rows before ``start``; logits of ``logit_rows``.

        ``tokens`` and ``positions`` are int64 ``[n]``, ``visible`` is bool ``[n, n]``, ``logit_rows`` int64 ``[r]``
        counts from ``start``. In calls with the same ``exact_rows``, which is at least n, a row has the same bits
        whatever other rows the call has; with 0 its bits may depend on them.
        """

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move cache rows ``sources`` (int64 ``[m]``, rising, none below its destination) to ``start ..``."""

    def reset(self) -> None:
        """Prepare for another text: zero what was used since the last reset (a NaN in a masked slot would leak)."""


class DraftEngines(Protocol):
    """The segments and the head of a draft bundle, loaded once."""

    location: str
    """Library and device that they run on, in words; part of the key of measured costs."""
    max_rows: int
    """Most rows in one call of a segment."""
    max_head_rows: int
    """Most rows in one call of the head."""

    def context(self) -> DraftContext:
        """Zeroed caches and hidden states for one more sequence."""


class TargetEngine(Protocol):
    """The graph of a target bundle, loaded once."""

    location: str
    """Library and device that it runs on, in words."""
    device: Literal["cpu", "cuda"]
    max_rows: int
    """Most rows in one call."""
    needs_company: bool | None
    """Whether exact calls of one row add a masked dummy row, because one row alone has other bits.

    While it is None, the first such call computes it. Set it to keep an answer from one start to the next.
    """

    def lone_rows_agree(self) -> bool:
        """Compute whether one row alone has the bits that it has among several, on this machine."""

    def context(self) -> TargetContext:
        """A zeroed cache for one more sequence."""


class Backend(Protocol):
    """Loads bundles. Methods raise BundleError where a file does not fit this backend or this machine."""

    def draft(self, bundle: Bundle) -> DraftEngines:
        """Load a draft bundle."""

    def target(self, bundle: Bundle) -> TargetEngine:
        """Load a target bundle."""
