"""The target: scores a whole tree in one call, and keeps what was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from runtime.backends import Logits
from runtime.backends.placement import Placement
from runtime.decoding.sampling import Sampling
from runtime.drafting.tree import Tree, TreeShape
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CapacityError, OptionError, S2DError

PREFILL_CHUNK = 128
"""Most prompt rows in one call."""
CHECKED_ROWS = 9
"""Rows that ``check_exact`` computes together."""


class Target:
    """A target bundle; see ``TargetModel``. Any number of slots take turns on its one engine."""

    drafts: Literal["tree", "chain"] = "tree"

    def __init__(self, bundle: Bundle, placement: Placement | None = None) -> None:
        manifest = bundle.manifest
        self.bundle, self.name, self.spec = bundle, manifest.name, manifest.model
        self.max_length, self.vocab_size = manifest.cache.max_length, manifest.model.vocab_size
        self.tokenizer, self.tokenizer_path = manifest.tokenizer, bundle.path(manifest.tokenizer.file)
        self.placement = placement or Placement()
        self.engine = self.placement.open_backend(bundle).target(bundle)
        self.max_rows = self.engine.max_rows
        self.identity = f"{self.engine.place}\n{manifest.to_json()}"
        self._free: list[BundleSequence] = []

    @classmethod
    def open(cls, directory: Path, placement: Placement | None = None, verify: bool = False) -> Target:
        """Load a target bundle. Raises BundleError."""
        return cls(Bundle.open(directory, "target", verify), placement)

    def companion(self, name: str) -> Path | None:
        """See ``TargetModel``."""
        return self.bundle.companion(name)

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where one call cannot hold such a tree."""
        if shape.verify_rows > self.max_rows:
            raise OptionError(
                f"a tree of {shape.verify_rows} nodes is more than the target verifies at once; allow at most"
                f" {self.max_rows} nodes"
            )

    def check_sampling(self, sampling: Sampling) -> None:
        """Every kind of sampling is possible."""

    def lease(self, exact_rows: int = 0) -> BundleSequence:
        """A slot for one text, emptied; give it back with ``release``. See ``TargetContext`` for ``exact_rows``."""
        slot = self._free.pop() if self._free else BundleSequence(self)
        slot.length, slot.exact_rows, slot.clock.seconds = 0, exact_rows, 0.0
        return slot

    def release(self, slot: BundleSequence) -> None:
        """Take a slot back for the next text."""
        self._free.append(slot)

    def check_exact(self) -> None:
        """Compare the bits of rows computed alone and nine at a time, on this machine.

        Raises:
            S2DError: they differ, so that ``exact`` cannot be promised here.
        """
        tokens = np.random.default_rng(0).integers(0, self.vocab_size, 3 + CHECKED_ROWS)
        together, apart = self.lease(CHECKED_ROWS), self.lease(CHECKED_ROWS)
        try:
            prefix = [int(token) for token in tokens[:3]]
            size = CHECKED_ROWS
            chain = Tree(tokens[3:], np.arange(-1, size - 1), np.arange(size), np.zeros(size))
            together.prefill(prefix)
            apart.prefill(prefix)
            logits = together.verify(chain)
            expected = [logits[row].copy() for row in range(size)]
            for row, token in enumerate(tokens[3:]):
                alone = apart.verify(Tree.root_only(int(token)))
                apart.commit([0])
                if not np.array_equal(alone[0], expected[row]):
                    raise S2DError(
                        f"target {self.name} gives other bits for the same row in another call on this machine;"
                        " run without --exact"
                    )
        finally:
            self.release(together)
            self.release(apart)


class BundleSequence:
    """The context of one text: ``length`` rows are committed, the tree's rows follow as scratch."""

    def __init__(self, target: Target) -> None:
        self._target, self._context = target, target.engine.context()
        self.clock = self._context.clock
        self._chunk = min(PREFILL_CHUNK, target.engine.max_rows)
        self.length = 0
        self.exact_rows = 0

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Commit a prompt behind what is there; returns the logits [V] after its last token, valid until the next call.

        Raises:
            CapacityError: the text outgrows the cache.
        """
        stop = self.length + len(tokens)
        if stop > self._target.max_length:
            raise CapacityError(
                f"the prompt needs {stop} positions and target {self._target.name} has {self._target.max_length};"
                " shorten it or build the bundle with a larger --max-length"
            )
        ids = np.asarray(tokens, dtype=np.int64)
        for start in range(0, len(ids), self._chunk):
            chunk = ids[start : start + self._chunk]
            size = len(chunk)
            # Every run of a prompt cuts it alike, so that an exact one needs no more than company for a lone row.
            exact_rows = size if self.exact_rows else 0
            last = self._forward(chunk, np.arange(size), np.tri(size, dtype=bool), np.array([size - 1]), exact_rows)
            self.length += size
        return last[0]

    def verify(self, tree: Tree) -> Logits:
        """Logits [V] at every node of ``tree``, whose root follows the committed rows; valid until the next call."""
        nodes = np.arange(len(tree))
        return self._forward(tree.tokens, tree.depths, tree.ancestor_mask(), nodes, self.exact_rows)

    def commit(self, path: Sequence[int]) -> None:
        """Keep the rows of the accepted nodes ``path`` (root first) and drop the rest of the tree."""
        if path[-1] != len(path) - 1:
            self._context.move(self.length + np.asarray(path), self.length)
        self.length += len(path)

    def truncate(self, length: int) -> None:
        """Forget what follows the first ``length`` positions."""
        self.length = min(self.length, length)

    def _forward(
        self, tokens: np.ndarray, depths: np.ndarray, visible: np.ndarray, rows: np.ndarray, exact_rows: int
    ) -> Logits:
        """One call: ``visible`` [n, n] says which of the new rows each may read; all read the committed ones."""
        return self._context.forward(tokens, depths + self.length, self.length, visible, rows, exact_rows)
