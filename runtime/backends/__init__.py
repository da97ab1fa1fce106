"""The interface of a backend.

A backend turns the graphs of a bundle into engines. The caches and hidden states of one text are a *context*, in the
memory of the backend's device. A call takes the rows of several texts, one *lane* for each. In its lane it computes new
cache rows ``[start, start + n)``. Each of them reads every row before ``base``, and of the rows from ``base`` on those
that ``visible`` marks; no row reads another lane. An engine may cut a call into smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from s2d_trt.bundle import Bundle

PREFILL_CHUNK = 128
"""Most rows in one call, of a prompt or of a draft's backlog."""


@dataclass(slots=True)
class Clock:
    """Seconds spent in engine calls, including the wait for their results."""

    seconds: float = 0.0


def lanes_for(available: tuple[int, ...], texts: int) -> tuple[int, ...]:
    """Of the numbers of lanes that a call may have, those that calls of up to so many texts have."""
    return tuple(count for count, smaller in zip(available, (0, *available), strict=False) if smaller < texts)


@dataclass(slots=True, eq=False)
class Lane:
    """One text's rows ``[start, start + n)`` in a call.

    ``tokens`` and ``positions`` are int64 ``[n]``, ``visible`` is bool ``[n, start + n - base]``. ``context`` is the
    text's, made by the engines that run the call.
    """

    context: Any
    tokens: np.ndarray
    positions: np.ndarray
    start: int
    base: int
    visible: np.ndarray


@dataclass(slots=True, eq=False)
class TargetLane(Lane):
    """A lane of a target's call, all of whose rows read the rows before ``start``: ``base`` is ``start``.

    ``logit_rows`` int64 ``[r]``, which counts from ``start``, names the rows whose logits are wanted. In lanes with the
    same ``exact_rows``, which is at least n, a row has the same bits whatever other rows and lanes the call has; with 0
    its bits may depend on them.
    """

    logit_rows: np.ndarray
    exact_rows: int = 0


@dataclass(slots=True, eq=False)
class HeadLane:
    """One text's rows in a call of the head: the hidden states that ``segment`` wrote at rows ``[start, stop)``.

    ``noise`` float32 ``[<= V]`` is added to the logits of every row; ids beyond its end are never returned. Do not
    write to it afterwards.
    """

    context: Any
    segment: int
    start: int
    stop: int
    noise: np.ndarray


Candidates = tuple[np.ndarray, np.ndarray]
"""Ids int64 and log-probabilities float32, both ``[rows, head_top_k]``, best first."""


class Logits(Protocol):
    """Logits of a call's rows, on the host or a device; a NumPy array is one."""

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Row ``row``, float32 ``[V]``; valid until the next call, or until another row is fetched."""


class Cascade(Protocol):
    """A depth of drafting in one launch: the device decides which exit answers."""

    def stage(
        self, segment: int, tokens: np.ndarray, positions: np.ndarray, start: int, base: int, visible: np.ndarray
    ) -> None:
        """Pass the fields of one segment's ``Lane``; every segment, in order, before ``run``."""

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
        largest confidence counts instead of the mean. The last exit always answers. Returns the candidates, which the
        next call overwrites, and the index of the exit; the segments up to it have run.
        """


class Context(Protocol):
    """The caches and hidden states of one text."""

    def reset(self) -> None:
        """Prepare for another text: zero what was used since the last reset (a NaN in a masked slot would leak)."""


class DraftContext(Context, Protocol):
    """The caches and hidden states of one text in a draft's engines."""

    cascade: Cascade | None
    """None where the host decides which exit answers."""


class TargetContext(Context, Protocol):
    """The cache of one text in a target's engine."""

    def move(self, sources: np.ndarray, start: int) -> None:
        """Move cache rows ``sources`` (int64 ``[m]``, rising, none below its destination) to ``start ..``."""


class DraftEngines(Protocol):
    """The segments and the head of a draft bundle, loaded once."""

    clock: Clock
    lanes: tuple[int, ...]
    """Numbers of lanes that one call may have, rising from 1."""
    location: str
    """Library and device that they run on, in words; part of the key of measured costs."""
    max_rows: int
    """Most rows in one call of a segment."""
    max_head_rows: int
    """Most rows in one call of the head."""

    def open_lanes(self, texts: int) -> None:
        """Load what calls of up to so many texts need, which takes seconds for a large model."""

    def context(self) -> DraftContext:
        """Zeroed caches and hidden states for one more text."""

    def forward(self, segment: int, lanes: Sequence[Lane]) -> None:
        """Run each lane's rows through a segment; their hidden states stay in its context.

        Segment 0 reads the tokens, every other segment the hidden states that the one before it wrote at these rows.
        """

    def candidates(self, lanes: Sequence[HeadLane]) -> Sequence[Candidates]:
        """Run the head; the best candidates of each lane's rows, which the next call overwrites."""

    def wait(self) -> None:
        """Wait until every call is done; only measurements need this."""


class TargetEngine(Protocol):
    """The graph of a target bundle, loaded once."""

    clock: Clock
    lanes: tuple[int, ...]
    """Numbers of lanes that one call may have, rising from 1. Set it to fewer to forbid the others."""
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

    def open_lanes(self, texts: int) -> None:
        """Load what calls of up to so many texts need, which takes seconds for a large model."""

    def context(self) -> TargetContext:
        """A zeroed cache for one more text."""

    def forward(self, lanes: Sequence[TargetLane]) -> Sequence[Logits]:
        """Run each lane's rows; the logits of its ``logit_rows``, valid until the next call."""


class Backend(Protocol):
    """Loads bundles. Methods raise BundleError where a file does not fit this backend or this machine."""

    def draft(self, bundle: Bundle) -> DraftEngines:
        """Load a draft bundle."""

    def target(self, bundle: Bundle) -> TargetEngine:
        """Load a target bundle."""
