"""Engines that look up what was recorded, and price their calls instead of running them.

They stand behind the same interface as a backend's, so that everything above it runs as it does while decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.backends import Candidates, Cascade, Clock, HeadLane, Lane
from runtime.drafting.costs import Costs
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.evaluation.replay.recording import PairShape, TextRecord, nothing_drafted
from runtime.tree.shape import TreeShape
from s2d_trt.manifest import SCRATCH_ROWS


class RecordedContext:
    """One text's rows in the recorded draft: the node of each."""

    cascade: Cascade | None = None

    def __init__(self, record: TextRecord, slots: int) -> None:
        self.record, self.nodes = record, [-1] * slots

    def reset(self) -> None:
        """Nothing is left to forget: rows are written before they are read."""

    def place(self, lane: Lane) -> None:
        """Note the node of each row of a call."""
        record, nodes, base = self.record, self.nodes, lane.base
        for row, (token, visible) in enumerate(zip(lane.tokens.tolist(), lane.visible, strict=True)):
            slot = lane.start + row
            # The parent is the last row before it that it reads: of the columns, its own is the last.
            seen = visible[: slot - base].nonzero()[0]
            parent = base + int(seen[-1]) if len(seen) else base - 1
            nodes[slot] = record.child(nodes[parent], token) if parent >= 0 else 0


class RecordedEngines:
    """The segments and the head of a draft, recorded. ``clock`` advances by what a call costs."""

    location = "recorded"
    max_rows = max_head_rows = SCRATCH_ROWS

    def __init__(self, pair: PairShape, costs: Costs) -> None:
        self.clock, self.lanes, self._costs = Clock(), pair.draft_lanes, costs
        self._top_k, self._slots = pair.head_top_k, pair.draft_length + SCRATCH_ROWS
        self.record: TextRecord | None = None
        """The text that is leased next."""

    def open_lanes(self, texts: int) -> None:
        """Nothing to load."""

    def context(self) -> RecordedContext:
        """For one more text, that of ``record``."""
        assert self.record is not None
        return RecordedContext(self.record, self._slots)

    def forward(self, segment: int, lanes: Sequence[Lane]) -> None:
        """Note which rows are there, and price the call."""
        if segment == 0:
            for lane in lanes:
                lane.context.place(lane)
        rows = sum(len(lane.tokens) for lane in lanes)
        context = sum(lane.start for lane in lanes)
        self.clock.seconds += self._costs.segment_ms(segment, rows, len(lanes), context) * 1e-3

    def candidates(self, lanes: Sequence[HeadLane]) -> Sequence[Candidates]:
        """The recorded candidates. Where there are none nothing is drafted, and the record notes what is missing."""
        self.clock.seconds += self._costs.head_ms(sum(lane.stop - lane.start for lane in lanes)) * 1e-3
        return [self._of(lane) for lane in lanes]

    def _of(self, lane: HeadLane) -> Candidates:
        context: RecordedContext = lane.context
        record, nodes = context.record, context.nodes[lane.start : lane.stop]
        known = [record.candidates.get(node) for node in nodes]
        of_exit = [found[lane.segment] for found in known if found is not None]
        if len(of_exit) < len(nodes):
            record.missing.update(node for node, found in zip(nodes, known, strict=True) if found is None)
            return nothing_drafted(len(nodes), self._top_k)
        if len(of_exit) == 1:
            return of_exit[0]
        return np.concatenate([ids for ids, _ in of_exit]), np.concatenate([logprobs for _, logprobs in of_exit])

    def wait(self) -> None:
        """Nothing runs."""


class RecordedDraft(SortedDraft):
    """A sorted draft whose engines are recorded."""

    def __init__(self, pair: PairShape, costs: Costs) -> None:
        self.exits, self.head_top_k = pair.exits, pair.head_top_k
        self.max_length, self.vocab_size = pair.draft_length, pair.draft_vocab
        self.recorded = RecordedEngines(pair, costs)
        self.engines = self.recorded
        self._free = []

    def begin(self, record: TextRecord, shape: TreeShape) -> DraftSequence | None:
        """As ``lease``, of a recorded text."""
        self._free.clear()
        self.recorded.record = record
        return self.lease(record.prompt, shape)
