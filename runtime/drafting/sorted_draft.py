"""The sorted draft: segments, exits, and the catch-up of what an early exit left waiting.

A slot holds one text. Its rows are the committed tokens followed by the tree rows of the current
round, in creation order, in the same cache slots of every segment. Segment k has done the first
``done[k]`` rows, ``done[k] <= done[k-1]``; the rows between wait before it: token ids before segment 0,
hidden states (before the norm) before the others. Running a segment takes what waits and the newest
rows in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.backends import Cascade
from runtime.backends.placement import Placement
from runtime.decoding.noise import Noise
from runtime.drafting.ngram import NgramDraft
from runtime.drafting.policy import DraftingPolicy, FixedThresholds
from runtime.drafting.tree import Tree, TreeBuilder, TreeShape
from s2d_trt.bundle import SCRATCH_ROWS, Bundle
from s2d_trt.errors import CapacityError, OptionError

PREFILL_CHUNK = 128
"""Most rows in one call."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tree to verify, the exit (index) that answered at each depth that was drafted, and what was looked up."""

    tree: Tree
    exits: list[int]
    guess: NgramDraft | None = None

    @classmethod
    def finish(
        cls, builder: TreeBuilder, exits: list[int], policy: DraftingPolicy, guess: NgramDraft | None
    ) -> Proposal:
        """What is left of a grown tree, ``guess`` merged into it, at the size that ``policy`` wants."""
        if guess is not None:
            builder.graft(guess.tokens, policy.guessed(guess))
        return cls(builder.finish(policy.size), exits, guess)


class SortedDraft:
    """One draft for any number of targets and texts; its weights are loaded once."""

    def __init__(self, bundle: Bundle, placement: Placement | None = None) -> None:
        manifest = bundle.manifest
        self.bundle, self.name, self.spec, self.exits = bundle, manifest.name, manifest.model, manifest.exits
        self.max_length, self.head_top_k = manifest.cache.max_length, manifest.head_top_k
        self.vocab_size = manifest.model.vocab_size
        self.tokenizer = manifest.tokenizer
        self.engines = (placement or Placement()).open_backend(bundle).draft(bundle)
        self.identity = f"{self.engines.place}\n{manifest.to_json()}"
        self._free: list[DraftSequence] = []

    @classmethod
    def open(cls, directory: Path, placement: Placement | None = None, verify: bool = False) -> SortedDraft:
        """Load a draft bundle. Raises BundleError."""
        return cls(Bundle.open(directory, "draft", verify), placement)

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

    def knows(self, tokens: Sequence[int]) -> bool:
        """Whether all ``tokens`` are in this draft's vocabulary; a target's may be padded further."""
        return max(tokens) < self.vocab_size

    def lease(self) -> DraftSequence:
        """A slot for one text, emptied; give it back with ``release``."""
        slot = self._free.pop() if self._free else DraftSequence(self)
        slot.truncate(0)
        slot.clock.seconds = 0.0
        return slot

    def release(self, slot: DraftSequence) -> None:
        """Take a slot back for the next text."""
        self._free.append(slot)


class DraftSequence:
    """The context and the waiting rows of one text."""

    def __init__(self, draft: SortedDraft) -> None:
        capacity = draft.max_length + SCRATCH_ROWS
        self._draft, self._context = draft, draft.engines.context()
        self.clock = self._context.clock
        self._chunk = min(PREFILL_CHUNK, draft.engines.max_rows)
        self._ids = np.zeros(capacity, np.int64)
        self._positions = np.zeros(capacity, np.int64)
        self._tree_mask = np.zeros((SCRATCH_ROWS, SCRATCH_ROWS), dtype=bool)
        self._causal = np.tri(self._chunk, dtype=bool)
        self._visible = np.empty_like(self._causal)
        self.done = [0] * len(draft.exits)
        self.committed = 0
        self.rows = 0

    @property
    def waiting(self) -> list[int]:
        """Rows that wait before each segment."""
        ready = [self.rows, *self.done[:-1]]
        return [before - after for before, after in zip(ready, self.done, strict=True)]

    def _waiting_behind(self, segment: int) -> int:
        """Rows that wait before the next segment; 0 where there is none."""
        return self.done[segment] - self.done[segment : segment + 2][-1]

    def truncate(self, length: int) -> None:
        """Drop the tree rows and all committed rows from ``length`` on."""
        self.committed = min(self.committed, length)
        self.rows = self.committed
        self.done = [min(done, self.committed) for done in self.done]

    def enqueue(self, tokens: Sequence[int]) -> None:
        """Drop the tree rows and commit ``tokens``: they wait before segment 0.

        Of a chain, rows that already hold these tokens in their places stay as they are.

        Raises:
            CapacityError: the text outgrows this draft's cache.
        """
        start, stop = self.committed, self.committed + len(tokens)
        if stop > self._draft.max_length:
            raise CapacityError(
                f"{stop} tokens exceed the draft's capacity of {self._draft.max_length}; shorten the prompt"
            )
        places, ids, in_place = np.arange(start, stop), np.asarray(tokens, dtype=np.int64), start
        if self.done[0] > start:
            # A tree row stands at its depth's place only if no level before it was wider than one node.
            same = (self._ids[start:stop] == ids) & (self._positions[start:stop] == places)
            in_place += len(tokens) if same.all() else int(same.argmin())
        self._ids[start:stop] = ids
        self._positions[start:stop] = places
        self.done = [min(done, in_place) for done in self.done]
        self.rows = self.committed = stop

    def _enqueue_frontier(self, tokens: Sequence[int], parent_rows: Sequence[int], depth: int) -> list[int]:
        """Append a level of tree rows, one under each of ``parent_rows``; returns the new rows."""
        start, committed = self.rows, self.committed
        self.rows = stop = start + len(tokens)
        self._ids[start:stop] = tokens
        self._positions[start:stop] = committed - 1 + depth
        for row, parent in enumerate(parent_rows, start - committed):
            mask = self._tree_mask[row]
            mask[:] = self._tree_mask[parent - committed] if parent >= committed else False
            mask[row] = True
        return list(range(start, stop))

    def flush(self, segment: int) -> None:
        """Run ``segment`` on every row that waits before it; the segment before it must be up to date."""
        ready = self.rows if segment == 0 else self.done[segment - 1]
        while self.done[segment] < ready:
            self._run(segment, self.done[segment], min(ready, self.done[segment] + self._chunk))

    def _run(self, segment: int, start: int, stop: int) -> None:
        base, visible = self._visible_rows(start, stop)
        self._context.forward(segment, self._ids[start:stop], self._positions[start:stop], start, base, visible)
        self.done[segment] = stop

    def _visible_rows(self, start: int, stop: int) -> tuple[int, np.ndarray]:
        """A row ``base`` before which each of rows start .. stop reads every row, and which of base .. stop it reads.

        Committed rows read all rows up to themselves, tree rows the committed ones and their ancestors.
        """
        committed, rows = self.committed, stop - start
        if start >= committed:
            return committed, self._tree_mask[start - committed : stop - committed, : stop - committed]
        if stop <= committed:
            return start, self._causal[:rows, :rows]
        visible, waiting = self._visible[:rows, :rows], committed - start
        visible[:] = self._causal[:rows, :rows]
        visible[waiting:, waiting:] = self._tree_mask[: rows - waiting, : rows - waiting]
        return start, visible

    def prefill(self, tokens: Sequence[int]) -> None:
        """Commit a text and run it through every segment, so that nothing waits."""
        self.enqueue(tokens)
        for segment in range(len(self.done)):
            self.flush(segment)

    def propose(
        self, noise: Noise, policy: DraftingPolicy, shape: TreeShape, guess: NgramDraft | None = None
    ) -> Proposal:
        """Draft a tree below the last committed token, ``guess`` beside it.

        Each depth's frontier goes through segment 0 and the head; while ``policy`` finds the exit's
        answer too unsure the next segment runs, and so on; the last exit always answers.
        """
        builder = TreeBuilder(int(self._ids[self.committed - 1]), shape, policy.floor)
        rows = [self.committed - 1]
        exits = []
        for depth in range(shape.depth + 1):
            if depth > 0:
                if not policy.continues(builder.frontier_logprobs):
                    break
                parents = [rows[parent] for parent in builder.frontier_parents]
                rows = self._enqueue_frontier(builder.frontier_tokens, parents, depth)
            tokens, logprobs, exit_index = self._predict(builder, noise.row(self.committed + depth), policy)
            exits.append(exit_index)
            builder.expand(tokens, logprobs)
        return Proposal.finish(builder, exits, policy, guess)

    def _predict(
        self, builder: TreeBuilder, noise: np.ndarray, policy: DraftingPolicy
    ) -> tuple[list[list[int]], list[list[float]], int]:
        """Candidates of every frontier node, their log-probabilities, and the exit that gave them."""
        paths, cascade = builder.frontier_logprobs, self._context.cascade
        if cascade is not None and isinstance(policy, FixedThresholds) and self._fits_a_depth():
            return self._decided_there(cascade, noise, paths, policy)
        for index in range(len(self.done)):
            self.flush(index)
            tokens, logprobs = self.candidates(index, len(paths), noise)
            answer = policy.calibrated(index, logprobs[:, : builder.top_k].tolist())
            if policy.answers(index, paths, [row[0] for row in answer], self._waiting_behind(index)):
                break
        return tokens.tolist(), answer, index

    def _fits_a_depth(self) -> bool:
        """Whether each segment can run all rows that it lacks in one call."""
        return all(0 < self.rows - done <= self._chunk for done in self.done)

    def _decided_there(
        self, cascade: Cascade, noise: np.ndarray, paths: Sequence[float], policy: FixedThresholds
    ) -> tuple[list[list[int]], list[list[float]], int]:
        """As ``_predict`` does, in one launch: the device compares confidence and threshold."""
        assert policy.thresholds is not None
        stop = self.rows
        for segment, start in enumerate(self.done):
            base, visible = self._visible_rows(start, stop)
            cascade.stage(segment, self._ids[start:stop], self._positions[start:stop], start, base, visible)
        tokens, logprobs, answered = cascade.run(
            stop - len(paths), stop, noise, np.array(paths), policy.thresholds, policy.rule == "max"
        )
        self.done[: answered + 1] = [stop] * (answered + 1)
        return tokens.tolist(), logprobs.tolist(), answered

    def candidates(self, segment: int, rows: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top candidates of the newest rows at an exit: ids int64 and log-probabilities float32 ``[rows, k]``.

        Both are overwritten by the next call.
        """
        return self._context.candidates(segment, self.rows - rows, self.rows, noise)

    def wait(self) -> None:
        """Until every call is done; only a measurement needs it."""
        self._context.wait()
