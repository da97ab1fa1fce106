"""The sorted draft: segments, exits, and running what an early exit skipped.

A sequence holds one text. Its rows are the committed tokens, then the tree rows of the current step in the order of
their creation, in the same cache slots of every segment. Segment k has run the first ``done[k]`` rows, and
``done[k] <= done[k-1]``. The rows between are its backlog: token ids before segment 0, hidden states (before the norm)
before the others. Running a segment takes its backlog and the newest rows in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from runtime.backends import PREFILL_CHUNK, Candidates, Cascade, HeadLane, Lane
from runtime.backends.placement import Placement
from runtime.drafting.calls import Calls, HeadCall, SegmentCall, run_together
from runtime.drafting.fixed import FixedBudget
from runtime.drafting.policy import Prospect, StepBudget
from runtime.drafting.proposal import NO_EXIT
from runtime.sampling.noise import DraftNoise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from s2d_trt.bundle import Bundle, load_bundle
from s2d_trt.errors import CapacityError, OptionError
from s2d_trt.manifest import SCRATCH_ROWS


class SortedDraft:
    """One draft for any number of targets and texts; its weights are loaded once."""

    def __init__(self, bundle: Bundle, placement: Placement | None = None) -> None:
        manifest = bundle.manifest
        self.bundle, self.name, self.spec, self.exits = bundle, manifest.name, manifest.model, manifest.exits
        self.max_length, self.head_top_k = manifest.cache.max_length, manifest.head_top_k
        self.vocab_size = manifest.model.vocab_size
        self.tokenizer = manifest.tokenizer
        self.engines = (placement or Placement()).open_backend(bundle).draft(bundle)
        self.identity = f"{self.engines.location}\n{manifest.to_json()}"
        self.turn = Lock()
        """Held by the thread that uses the draft."""
        self._free: list[DraftSequence] = []

    @classmethod
    def open(cls, directory: str | Path, placement: Placement | None = None, verify: bool = False) -> SortedDraft:
        """Load a draft bundle. Raises BundleError."""
        return load_bundle(directory, "draft", verify, lambda bundle: cls(bundle, placement))

    @property
    def token_bytes(self) -> int:
        """Bytes that a committed token takes in the caches."""
        return self.bundle.manifest.token_bytes

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where this draft's head or scratch rows cannot grow such a tree."""
        if shape.top_k > self.head_top_k:
            raise OptionError(
                f"tree top-k {shape.top_k} is above the {self.head_top_k} candidates of draft {self.name};"
                f" use at most {self.head_top_k}"
            )
        if shape.top_k > self.engines.max_head_rows:
            raise OptionError(
                f"tree top-k {shape.top_k} is above the {self.engines.max_head_rows} rows that the head of draft"
                f" {self.name} takes; use at most that, or build it again with more --tree-nodes"
            )
        if shape.draft_rows > SCRATCH_ROWS:
            raise OptionError(
                f"a tree of depth {shape.depth} and top-k {shape.top_k} takes {shape.draft_rows} draft rows;"
                f" keep depth x top-k at or below {SCRATCH_ROWS}"
            )

    def covers(self, tokens: Sequence[int]) -> bool:
        """Whether all ``tokens`` are in this draft's vocabulary; a target's may be padded further."""
        return max(tokens) < self.vocab_size

    def lease(self, prompt: Sequence[int], shape: TreeShape) -> DraftSequence | None:
        """A sequence with ``prompt`` as backlog; None where the draft cannot hold it."""
        if len(prompt) >= self.max_length or not self.covers(prompt):
            return None
        sequence = self.empty_sequence()
        sequence.shape = shape
        sequence.enqueue(prompt)
        return sequence

    def empty_sequence(self) -> DraftSequence:
        """A sequence without tokens; give it back with ``release``."""
        sequence = self._free.pop() if self._free else DraftSequence(self)
        sequence.reset()
        return sequence

    def release(self, sequence: DraftSequence) -> None:
        """Take a sequence back for the next text."""
        self._free.append(sequence)


def flush_together(sequences: Sequence[DraftSequence], segment: int) -> None:
    """Run ``segment`` on the backlogs of several texts."""
    run_together([sequence.flushing(segment) for sequence in sequences])


class DraftSequence:
    """One text in the draft: its rows, and how many of them each segment has run."""

    def __init__(self, draft: SortedDraft) -> None:
        capacity = draft.max_length + SCRATCH_ROWS
        self._draft, self._engines, self.context = draft, draft.engines, draft.engines.context()
        self._chunk = min(PREFILL_CHUNK, draft.engines.max_rows)
        self._ids = np.zeros(capacity, np.int64)
        self._positions = np.zeros(capacity, np.int64)
        self._tree_mask = np.zeros((SCRATCH_ROWS, SCRATCH_ROWS), dtype=bool)
        self._causal = np.tri(self._chunk, dtype=bool)
        self._visible = np.empty_like(self._causal)
        self.done = [0] * len(draft.exits)
        self.committed = 0
        self.rows = 0
        self.shape = TreeShape()

    def reset(self) -> None:
        """Forget the text, and the numbers that it left in the caches."""
        self.truncate(0)
        self.context.reset()

    @property
    def backlogs(self) -> list[int]:
        """For each segment, the rows that it has not run and the segment before it has."""
        ready = [self.rows, *self.done[:-1]]
        return [before - after for before, after in zip(ready, self.done, strict=True)]

    def prospect(self, room: int) -> Prospect:
        """The first segment's backlog, where there is room for a drafted token."""
        return Prospect(self.backlogs[0] if self._deepest(room) > 0 else None)

    def _deepest(self, room: int) -> int:
        return min(room, self._draft.max_length - self.committed)

    def truncate(self, length: int) -> None:
        """Drop the tree rows and all committed rows from ``length`` on."""
        self.committed = min(self.committed, length)
        self.rows = self.committed
        self.done = [min(done, self.committed) for done in self.done]

    def enqueue(self, tokens: Sequence[int]) -> None:
        """Drop the tree rows and commit ``tokens``, as backlog of segment 0.

        Tree rows of a chain that already hold these tokens at these positions are kept.

        Raises:
            CapacityError: the text outgrows this draft's cache.
        """
        start, stop = self.committed, self.committed + len(tokens)
        if stop > self._draft.max_length:
            raise CapacityError(
                f"{stop} tokens exceed the draft's capacity of {self._draft.max_length}; shorten the prompt"
            )
        positions, ids, kept = np.arange(start, stop), np.asarray(tokens, dtype=np.int64), start
        if self.done[0] > start:
            # A tree row's slot is its position only if no level before it was wider than one node.
            same = (self._ids[start:stop] == ids) & (self._positions[start:stop] == positions)
            kept += len(tokens) if same.all() else int(same.argmin())
        self._ids[start:stop] = ids
        self._positions[start:stop] = positions
        self.done = [min(done, kept) for done in self.done]
        self.rows = self.committed = stop

    def follow(self, tokens: Sequence[int]) -> bool:
        """Commit ``tokens``; False where they do not fit the cache or the vocabulary."""
        if self.committed + len(tokens) > self._draft.max_length or not self._draft.covers(tokens):
            return False
        self.enqueue(tokens)
        return True

    def learn(self, tokens: Sequence[int]) -> int:
        """Nothing: the policy learns what this drafter's candidates are worth."""
        return 0

    def release(self) -> None:
        """Give the sequence back to the draft."""
        self._draft.release(self)

    def _enqueue_frontier(self, builder: TreeBuilder, rows: Sequence[int]) -> Sequence[int]:
        """Append the frontier as tree rows, given the ``rows`` of the one before, unless it is the root; its rows."""
        if builder.depth == 0:
            return rows
        start, committed = self.rows, self.committed
        self.rows = stop = start + len(builder.frontier_tokens)
        self._ids[start:stop] = builder.frontier_tokens
        self._positions[start:stop] = committed - 1 + builder.depth
        for row, index in enumerate(builder.frontier_parents, start - committed):
            mask, parent = self._tree_mask[row], rows[index]
            mask[:] = self._tree_mask[parent - committed] if parent >= committed else False
            mask[row] = True
        return list(range(start, stop))

    def flush(self, segment: int) -> None:
        """Run ``segment`` on its backlog; the segment before it must have none."""
        run_together([self.flushing(segment)])

    def flushing(self, segment: int) -> Calls[None]:
        """As ``flush``, together with other texts."""
        ready = self.rows if segment == 0 else self.done[segment - 1]
        while (start := self.done[segment]) < ready:
            stop = min(ready, start + self._chunk)
            yield SegmentCall(self._engines, segment, self._lane(start, stop))
            self.done[segment] = stop

    def catch_up(self, rows: int) -> Calls[None]:
        """Run at most ``rows`` rows of the first segment's backlog, and leave it the last: drafting starts from it."""
        stop = min(self.done[0] + rows, self.committed - 1)
        while (start := self.done[0]) < stop:
            end = min(stop, start + self._chunk)
            yield SegmentCall(self._engines, 0, self._lane(start, end))
            self.done[0] = end

    def _lane(self, start: int, stop: int) -> Lane:
        base, visible = self._visible_rows(start, stop)
        return Lane(self.context, self._ids[start:stop], self._positions[start:stop], start, base, visible)

    def _visible_rows(self, start: int, stop: int) -> tuple[int, np.ndarray]:
        """A row ``base`` before which each of rows start .. stop reads every row, and which of base .. stop it reads.

        A committed row reads all rows up to itself, a tree row the committed rows and its ancestors.
        """
        committed, rows = self.committed, stop - start
        if start >= committed:
            return committed, self._tree_mask[start - committed : stop - committed, : stop - committed]
        if stop <= committed:
            return start, self._causal[:rows, :rows]
        visible, backlog = self._visible[:rows, :rows], committed - start
        visible[:] = self._causal[:rows, :rows]
        visible[backlog:, backlog:] = self._tree_mask[: rows - backlog, : rows - backlog]
        return start, visible

    def prefill(self, tokens: Sequence[int]) -> None:
        """Commit a text and run it through every segment."""
        self.enqueue(tokens)
        for segment in range(len(self.done)):
            self.flush(segment)

    def propose(self, builder: TreeBuilder, budget: StepBudget, noise: DraftNoise, room: int) -> Calls[list[int]]:
        """Grow the tree below the last committed token, level by level.

        At each level the frontier goes through segment 0 and the head. Where ``budget`` does not take the exit's answer
        the next segment runs, and so on; the last exit always answers. Forced tokens cost no pass: they come before the
        first level and behind every other one.
        """
        exits: list[int] = []
        rows: Sequence[int] = [self.committed - 1]
        deepest = self._deepest(room)
        for drafted in range(self.shape.depth + 2 if budget.drafts else 0):
            forced = self._forced(builder, noise, deepest)
            goes_on = drafted <= self.shape.depth and builder.depth + len(forced) < deepest
            goes_on = goes_on and (drafted == 0 or budget.continues(builder.frontier_logprobs))
            for token in forced:
                rows = self._enqueue_frontier(builder, rows)
                builder.force(token)
            if not goes_on:
                break
            if forced:
                budget.also_runs(len(forced))
            rows = self._enqueue_frontier(builder, rows)
            if (row := noise.row(self.committed + builder.depth, builder.frontier_paths)) is None:
                break
            exits += [NO_EXIT] * len(forced)
            exits.append((yield from self._expand(builder, noise, row, budget)))
        return exits

    def _forced(self, builder: TreeBuilder, noise: DraftNoise, deepest: int) -> Sequence[int]:
        """Tokens that are drafted without a pass: their rows run with those of the level that is drafted next."""
        spare = SCRATCH_ROWS - self.shape.draft_rows - (self.rows - self.committed)
        forced = noise.forced(builder.frontier_paths)[: max(0, min(deepest - builder.depth, spare))]
        return forced if forced and self._draft.covers(forced) else ()

    def _expand(self, builder: TreeBuilder, noise: DraftNoise, row: np.ndarray, budget: StepBudget) -> Calls[int]:
        """Add the candidates of every frontier node; returns the exit that gave them."""
        paths, cascade = builder.frontier_logprobs, self.context.cascade
        if cascade is not None and isinstance(budget, FixedBudget) and self._fits_one_launch():
            tokens, logprobs, answered = self._cascade_on_device(cascade, row, paths, budget)
            tokens, logprobs = noise.restrict(tokens, logprobs)
            builder.expand(tokens.tolist(), logprobs.tolist())
            return answered
        last = len(self.done) - 1
        for index in range(last + 1):
            yield from self.flushing(index)
            tokens, logprobs = yield HeadCall(self._engines, self._head_lane(index, len(paths), row))
            # Where the draft overflows, nothing is drafted; a policy must not meet a NaN.
            tokens, logprobs = noise.restrict(tokens, np.where(np.isnan(logprobs), -np.inf, logprobs))
            own = logprobs[:, : builder.top_k].tolist()
            best = tokens[:, : builder.top_k].tolist()
            calibrated = budget.calibrated(index, own)
            backlog = self.done[index] - self.done[min(index + 1, last)]
            if budget.answers(index, paths, [row[0] for row in calibrated], backlog):
                break
        builder.expand(best, calibrated, own)
        return index

    def _fits_one_launch(self) -> bool:
        """Whether each segment can run its backlog in one call."""
        return all(0 < self.rows - done <= self._chunk for done in self.done)

    def _cascade_on_device(
        self, cascade: Cascade, noise: np.ndarray, paths: Sequence[float], budget: FixedBudget
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Run all segments in one launch, in which the device compares confidence and threshold."""
        stop = self.rows
        for segment, start in enumerate(self.done):
            lane = self._lane(start, stop)
            cascade.stage(segment, lane.tokens, lane.positions, start, lane.base, lane.visible)
        tokens, logprobs, answered = cascade.run(
            stop - len(paths), stop, noise, np.array(paths), budget.thresholds, budget.rule == "max"
        )
        self.done[: answered + 1] = [stop] * (answered + 1)
        return tokens, logprobs, answered

    def candidates(self, segment: int, rows: int, noise: np.ndarray) -> Candidates:
        """Top candidates of the newest rows at an exit; the next call overwrites them."""
        return self._engines.candidates([self._head_lane(segment, rows, noise)])[0]

    def _head_lane(self, segment: int, rows: int, noise: np.ndarray) -> HeadLane:
        return HeadLane(self.context, segment, self.rows - rows, self.rows, noise)

    def wait(self) -> None:
        """Wait until every call is done; only a measurement needs it."""
        self._engines.wait()
