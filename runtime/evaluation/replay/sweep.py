"""Replaying chains under many fixed thresholds and depths at once.

Under fixed thresholds what a step drafts follows from its position alone, so thousands of settings run side by side as
arrays. The figures are those of ``Replay``, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.backends import PREFILL_CHUNK
from runtime.drafting.costs import CONTEXT, MOST_ROWS
from runtime.evaluation.replay.prices import MOST_EXITS, Prices
from runtime.evaluation.replay.recording import PairShape, Recording, TextRecord

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Settings:
    """``thresholds`` float64 ``[c, exits]`` and ``depths`` int64 ``[c]`` (d means d + 1 passes) of c settings."""

    thresholds: np.ndarray
    depths: np.ndarray

    def __len__(self) -> int:
        return len(self.depths)

    def of(self, index: int) -> tuple[tuple[float, ...], int]:
        """Thresholds and depth of one setting."""
        return tuple(map(float, self.thresholds[index])), int(self.depths[index])


@dataclass(frozen=True, slots=True)
class Swept:
    """For each setting and text, milliseconds and steps: float64 and int64 ``[c, texts]``."""

    milliseconds: np.ndarray
    steps: np.ndarray
    tokens: np.ndarray
    """New tokens of each text but the first: int64 ``[texts]``."""

    def tokens_per_ms(self, texts: Sequence[int] | None = None) -> np.ndarray:
        """Of each setting over some texts, or all: float64 ``[c]``."""
        chosen = slice(None) if texts is None else list(texts)
        speeds: np.ndarray = self.tokens[chosen].sum() / self.milliseconds[:, chosen].sum(axis=1)
        return speeds


class ChainTable:
    """For each node and exit of a text: the confidence, and the node that the best candidate leads to."""

    def __init__(self, record: TextRecord, exits: int) -> None:
        best = {
            node: [(record.child(node, int(ids[0, 0])), float(logprobs[0, 0])) for ids, logprobs in of_exits]
            for node, of_exits in record.candidates.items()
        }
        size = len(record.text) + len(record.off_text)
        self.next = np.full((size, exits), UNKNOWN)
        self.confidence = np.zeros((size, exits))
        nodes = list(best)
        self.next[nodes] = [[child for child, _ in row] for row in best.values()]
        self.confidence[nodes] = np.exp([[logprob for _, logprob in row] for row in best.values()])


def sweep(recording: Recording, prices: Prices, settings: Settings, complete: Callable[[Recording], int]) -> Swept:
    """Replay all texts under all settings; ``complete`` computes the candidates that are missing."""
    while True:
        results = [_Text(record, recording.pair, prices, settings).run() for record in recording.texts]
        if recording.complete or not complete(recording):
            break
    tokens = np.array([len(record.tokens) - 1 for record in recording.texts])
    milliseconds, steps = (np.stack(part, axis=1) for part in zip(*results, strict=True))
    return Swept(milliseconds, steps, tokens)


class _Text:
    """One text under all settings. ``done`` counts the rows that each segment has run, as in ``DraftSequence``;
    ``drafting`` and ``exits`` are the current step's measured milliseconds and exits that ran.
    """

    def __init__(self, record: TextRecord, pair: PairShape, prices: Prices, settings: Settings) -> None:
        self.record, self.pair, self.prices, self.settings = record, pair, prices, settings
        self.table = ChainTable(record, len(pair.exits))
        count, costs = len(settings), prices.costs
        self.length = np.full(count, len(record.prompt) + 1)
        self.done = np.zeros((len(pair.exits), count), np.int64)
        self.milliseconds, self.steps = np.zeros(count), np.zeros(count, np.int64)
        self.drafting, self.exits = np.zeros(count), np.zeros(count, np.int64)
        rows = range(MOST_ROWS + 1)
        self._verify = np.array([costs.verify_ms(each) for each in rows])
        self._segments = [np.array([costs.segment_ms(k, each) for each in rows]) for k in range(len(pair.exits))]
        self._per_token = costs.segment_tokens or (0.0,) * len(pair.exits)
        self._head = costs.head_ms(1)
        self._overhead = prices.of(1)
        self._slowness = np.array(self._overhead.verify_slowness), np.array(self._overhead.draft_slowness)

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Milliseconds and steps of each setting."""
        end = len(self.record.prompt) + len(self.record.tokens)
        while len(active := np.flatnonzero(self.length < end)):
            self._step(active)
        return self.milliseconds, self.steps

    def _step(self, active: np.ndarray) -> None:
        pair, record, start = self.pair, self.record, self.length[active]
        room = np.minimum(record.limit - (start - len(record.prompt)), pair.target_rows) - 1
        levels = np.minimum(np.minimum(self.settings.depths[active] + 1, room), pair.draft_length - start)
        levels = np.maximum(levels, 0)
        node, right = start - 1, np.ones(len(active), bool)
        accepted, drafted = np.ones(len(active), np.int64), np.zeros(len(active), np.int64)
        for level in range(int(levels.max(initial=0))):
            going = np.flatnonzero((levels > level) & (node != UNKNOWN))
            if not len(going):
                break
            following = self._pass(active[going], node[going], start[going] + level)
            hit = right[going] & (following == node[going] + 1) & (following < len(record.text))
            accepted[going] += hit
            drafted[going] += 1
            right[going], node[going] = hit, following
        context = np.maximum(0, start - 1 - CONTEXT) * self.prices.costs.token
        ran, (of_verify, of_draft) = np.minimum(self.exits[active], MOST_EXITS), self._slowness
        overhead = self._overhead
        host = (
            overhead.host_step_ms
            + (drafted > 0) * overhead.host_draft_ms
            + self.exits[active] * overhead.host_exit_ms
            + (accepted - 1) * overhead.host_token_ms
        )
        verify = of_verify[ran] * (self._verify[1 + drafted] + context)
        self.milliseconds[active] += of_draft[drafted] * self.drafting[active] + verify + host
        self.drafting[active], self.exits[active] = 0.0, 0
        self.steps[active] += 1
        self.done[:, active] = np.minimum(self.done[:, active], start + accepted - 1)
        self.length[active] += accepted

    def _pass(self, chosen: np.ndarray, node: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """One pass of the cascade at ``node`` for the settings ``chosen``; the nodes that follow."""
        table, following = self.table, np.full(len(chosen), UNKNOWN)
        unknown = table.next[node, 0] == UNKNOWN
        self.record.missing.update(node[unknown].tolist())
        deciding, ready, last = np.flatnonzero(~unknown), rows, len(self.done) - 1
        for exit_index in range(last + 1):
            who = chosen[deciding]
            self._flush(exit_index, who, ready[deciding])
            sure = table.confidence[node[deciding], exit_index] > self.settings.thresholds[who, exit_index]
            answers = sure | (exit_index == last)
            following[deciding[answers]] = table.next[node[deciding[answers]], exit_index]
            deciding = deciding[~answers]
        return following

    def _flush(self, segment: int, who: np.ndarray, ready: np.ndarray) -> None:
        """Run a segment's backlog, in calls of at most a chunk, and the head on one row."""
        start = self.done[segment, who]
        while (left := ready - start).any():
            rows = np.minimum(left, PREFILL_CHUNK)
            longer = self._per_token[segment] * np.maximum(0, start - CONTEXT)
            self.drafting[who] += np.where(rows > 0, self._segments[segment][rows] + longer, 0.0)
            start = start + rows
        self.done[segment, who] = ready
        self.drafting[who] += self._head
        self.exits[who] += 1


def grid(recording: Recording, values: int, depths: Sequence[int]) -> Settings:
    """Thresholds at quantiles of the recorded confidences, with 0 (always answers) and 1 (never), at every depth."""
    nodes = [record.candidates[node] for record in recording.texts for node in record.candidates]
    axes = []
    for exit_index in range(len(recording.pair.exits) - 1):
        confidences = np.exp([float(candidates[exit_index][1][0, 0]) for candidates in nodes])
        inner = np.quantile(confidences, np.linspace(0, 1, values)[1:-1])
        axes.append(np.unique([0.0, *inner, 1.0]).tolist())
    mesh = np.meshgrid(*axes, [0.0], list(depths), indexing="ij")
    columns = np.stack([axis.ravel() for axis in mesh], axis=1)
    return Settings(columns[:, :-1], columns[:, -1].astype(np.int64))
