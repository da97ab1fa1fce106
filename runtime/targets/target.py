"""A target bundle: scores a whole tree in one call, and keeps what was accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from runtime.backends import PREFILL_CHUNK, Logits
from runtime.backends.placement import Placement
from runtime.sampling.options import Sampling
from runtime.targets.exactness import rows_are_exact
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CapacityError, OptionError, S2DError


class Target:
    """A target bundle on ONNX Runtime or TensorRT. Any number of sequences take turns on its one engine."""

    drafts: Literal["tree", "chain"] = "tree"

    def __init__(self, bundle: Bundle, placement: Placement | None = None) -> None:
        manifest = bundle.manifest
        self.bundle, self.name, self.spec = bundle, manifest.name, manifest.model
        self.max_length, self.vocab_size = manifest.cache.max_length, manifest.model.vocab_size
        self.tokenizer, self.tokenizer_path = manifest.tokenizer, bundle.path(manifest.tokenizer.file)
        self.placement = placement or Placement()
        self.engine = self.placement.open_backend(bundle).target(bundle)
        self.max_rows = self.engine.max_rows
        self.identity = f"{self.engine.location}\n{manifest.to_json()}"
        self._free: list[BundleSequence] = []

    @classmethod
    def open(cls, directory: Path, placement: Placement | None = None, verify: bool = False) -> Target:
        """Load a target bundle. Raises BundleError."""
        return cls(Bundle.open(directory, "target", verify), placement)

    def companion(self, name: str) -> Path | None:
        """A file copied from the checkpoint, or None."""
        return self.bundle.companion(name)

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where one call cannot hold such a tree."""
        if shape.verify_rows() > self.max_rows:
            raise OptionError(
                f"a tree of {shape.verify_rows()} nodes is more than the target verifies at once; allow at most"
                f" {self.max_rows} nodes"
            )

    def check_sampling(self, sampling: Sampling) -> None:
        """Every kind of sampling is possible."""

    def lease(self, exact_rows: int = 0) -> BundleSequence:
        """A sequence without tokens; give it back with ``release``."""
        sequence = self._free.pop() if self._free else BundleSequence(self)
        sequence.reset(exact_rows)
        return sequence

    def release(self, sequence: BundleSequence) -> None:
        """Take a sequence back for the next text."""
        self._free.append(sequence)

    @property
    def exact_by_default(self) -> bool:
        """Whether requests are exact unless they say otherwise: on a CPU, where this costs nothing."""
        return self.engine.device == "cpu"

    def check_exact(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Raise S2DError where a row's bits depend on the call that computes it, on this machine."""
        if not rows_are_exact(self, self.engine, progress):
            raise S2DError(
                f"target {self.name} gives other bits for the same row in another call on this machine;"
                " run without --exact"
            )


class BundleSequence:
    """One text in a target: ``length`` rows are committed, the tree's rows follow as scratch."""

    def __init__(self, target: Target) -> None:
        self._target, self._context = target, target.engine.context()
        self.clock = self._context.clock
        self._chunk = min(PREFILL_CHUNK, target.engine.max_rows)
        self.length = 0
        self.exact_rows = 0

    def reset(self, exact_rows: int) -> None:
        """Forget the text, and the numbers that it left in the cache."""
        self.length, self.exact_rows, self.clock.seconds = 0, exact_rows, 0.0
        self._context.reset()

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
            # A prompt is cut in the same way in every run, so its chunks have the same bits.
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

    def _forward(
        self, tokens: np.ndarray, depths: np.ndarray, visible: np.ndarray, rows: np.ndarray, exact_rows: int
    ) -> Logits:
        """One call: ``visible`` [n, n] says which of the new rows each may read; all read the committed ones."""
        return self._context.forward(tokens, depths + self.length, self.length, visible, rows, exact_rows)
