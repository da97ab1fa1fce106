"""What the runtime asks of a backend.

A backend turns the graphs of a bundle into engines and keeps one text's caches and hidden states in a *context*,
in the memory of its device. Rows of a call are new cache rows ``[start, start + n)``; all of them read every row
before ``base``, and of the rows from ``base`` on those that ``visible`` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from s2d_trt.bundle import Bundle


@dataclass(slots=True)
class Clock:
    """StepTimes spent inside engine calls, waiting for their results included."""

    seconds: float = 0.0


class Logits(Protocol):
    """Logits of a call's rows, wherever they are; a NumPy array is one."""

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Row ``row``, float32 ``[V]``; valid until the next call, or until another row is fetched."""


class Cascade(Protocol):
    """A depth of drafting without the host: the device itself decides which exit answers."""

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Say what ``DraftContext.forward`` would be told; once for each segment, in order, before ``run``."""

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

        ``paths`` float64 ``[stop - start]`` are the frontier's cumulative log-probabilities, ``largest`` takes the
        largest confidence and not their mean; the last exit always answers. Returns what ``DraftContext.candidates``
        does, and the exit's index: the segments up to it have run.
        """


class DraftContext(Protocol):
    """One text's caches and hidden states in a draft's engines."""

    clock: Clock
    cascade: Cascade | None
    """None where the host must decide."""

    def forward(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Run rows ``[start, start + n)`` through a segment; their hidden states stay with the backend.

        ``tokens`` and ``positions`` are int64 ``[n]``, ``visible`` is bool ``[n, start + n - base]``. Segment 0
        reads the tokens, every other one what the segment before it left at these rows.
        """

    def candidates(self, segment: int, start: int, stop: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The head on what ``segment`` left at rows ``[start, stop)``.

        ``noise`` float32 ``[<= V]`` is added to the logits; ids beyond it are never given. Returns ids int64 and
        log-probabilities float32 ``[stop - start, head_top_k]``, best first, overwritten by the next call.
        """

    def reset(self) -> None:
        """Zero what was used since the last reset, for another text: NaN in masked slots would leak into it."""

    def wait(self) -> None:
        """Until every call is done; only a measurement needs it."""


class TargetContext(Protocol):
    """One text's caches in a target's engine."""

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
        counts from ``start``. Calls with the same ``exact_rows``, which is at least n, give a row the same bits
        whatever rows join it; 0 leaves the choice of kernels free.
        """

    def move(self, sources: np.ndarray, start: int) -> None:
        """Bring cache rows ``sources`` (int64 ``[m]``, rising, none below its destination) to ``start ..``."""

    def reset(self) -> None:
        """Zero what was used since the last reset, for another text: NaN in masked slots would leak into it."""


class DraftEngines(Protocol):
    """The segments and the head of a draft bundle, loaded once."""

    place: str
    """What they run on, in words: costs measured in one place say nothing of another."""
    max_rows: int
    """Most rows in one call of a segment."""
    max_head_rows: int
    """Most rows in one call of the head."""

    def context(self) -> DraftContext:
        """Zeroed caches and hidden states for one more text."""


class TargetEngine(Protocol):
    """The graph of a target bundle, loaded once."""

    place: str
    """What it runs on, in words."""
    device: Literal["cpu", "cuda"]
    max_rows: int
    """Most rows in one call."""
    needs_company: bool | None
    """Whether an exact call of one row takes a masked dummy row along, because one row alone has other bits.

    None: the first such call computes the answer. An answer that was kept from an earlier start may be set.
    """

    def lone_rows_agree(self) -> bool:
        """Compute whether one row alone has the bits that it has among several, here and now."""

    def context(self) -> TargetContext:
        """Zeroed caches for one more text."""


class Backend(Protocol):
    """Loads bundles. Both raise BundleError where a file does not fit this backend or this machine."""

    def draft(self, bundle: Bundle) -> DraftEngines:
        """Load a draft bundle."""

    def target(self, bundle: Bundle) -> TargetEngine:
        """Load a target bundle."""
