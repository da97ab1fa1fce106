"""A target bundle: scores a whole tree in one call, and keeps what was accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from runtime.backends import PREFILL_CHUNK, Logits, TargetLane
from runtime.backends.placement import Placement
from runtime.targets.exactness import exact_lanes, rows_are_exact
from runtime.targets.interface import Chunk, Part
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.bundle import Bundle, load_bundle
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
        self.max_rows, self.clock = self.engine.max_rows, self.engine.clock
        self.turn = Lock()
        self.prompt_rows = min(PREFILL_CHUNK, self.max_rows)
        self.identity = f"{self.engine.location}\n{manifest.to_json()}"
        self._free: list[BundleSequence] = []

    @classmethod
    def open(cls, directory: str | Path, placement: Placement | None = None, verify: bool = False) -> Target:
        """Load a target bundle. Raises BundleError."""
        return load_bundle(directory, "target", verify, lambda bundle: cls(bundle, placement))

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

    def check_scores(self, needing: Sequence[str]) -> None:
        """Every option is possible: the graph gives logits."""

    @property
    def lanes(self) -> tuple[int, ...]:
        """Numbers of texts that one call may take, rising from 1."""
        return self.engine.lanes

    @property
    def token_bytes(self) -> int:
        """Bytes that a committed token takes in the cache."""
        return self.bundle.manifest.token_bytes

    @property
    def keeps_prefixes(self) -> bool:
        """Whether rows can be copied from text to text, and a prompt may be cut anywhere."""
        return self.engine.device == "cpu"

    def open_lanes(self, texts: int) -> None:
        """Load what calls of up to so many texts need."""
        self.engine.open_lanes(texts)

    def lease(self, exact_rows: int = 0) -> BundleSequence:
        """A sequence without tokens; give it back with ``release``."""
        sequence = self._free.pop() if self._free else BundleSequence(self)
        sequence.reset(exact_rows)
        return sequence

    def release(self, sequence: BundleSequence) -> None:
        """Take a sequence back for the next text."""
        self._free.append(sequence)

    def run(self, parts: Sequence[Part]) -> Sequence[Logits]:
        """Run a part of each text in one call, or in as few as the graphs allow."""
        logits = self.engine.forward([sequence.lane(part) for sequence, part in parts])
        for sequence, part in parts:
            if isinstance(part, Chunk):
                sequence.length += len(part.tokens)
        return logits

    @property
    def exact_by_default(self) -> bool:
        """Whether requests are exact unless they say otherwise: on a CPU, where this costs nothing."""
        return self.engine.device == "cpu"

    def check_exact(self, progress: Callable[[str], None] = lambda _: None, texts: int = 1) -> None:
        """Raise S2DError where a row's bits depend on the call that computes it, on this machine."""
        if not rows_are_exact(self, self.engine, progress):
            raise S2DError(
                f"target {self.name} gives other bits for the same row in another call on this machine;"
                " run without --exact"
            )
        self.engine.lanes = exact_lanes(self, texts, progress)


class BundleSequence:
    """One text in a target: ``length`` rows are committed, the tree's rows follow as scratch."""

    def __init__(self, target: Target) -> None:
        self._target, self.context = target, target.engine.context()
        self.length = 0
        self.exact_rows = 0

    def reset(self, exact_rows: int) -> None:
        """Forget the text, and the numbers that it left in the cache."""
        self.length, self.exact_rows = 0, exact_rows
        self.context.reset()

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
        size = self._target.prompt_rows
        for start in range(0, len(tokens), size):
            last = self._target.run([(self, Chunk(tokens[start : start + size]))])[0]
        return last[0]

    def verify(self, tree: Tree) -> Logits:
        """Logits [V] at every node of ``tree``, whose root follows the committed rows; valid until the next call."""
        return self._target.run([(self, tree)])[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of committed rows, for another text that begins alike; only on a CPU."""
        context: Any = self.context
        copied: np.ndarray = context.cache.rows(start, stop)
        return copied

    def restore(self, blocks: Sequence[np.ndarray]) -> None:
        """Commit copied rows in place of a prefill."""
        context: Any = self.context
        for block in blocks:
            context.cache.restore(self.length, block)
            self.length += block.shape[2]

    def commit(self, path: Sequence[int]) -> None:
        """Keep the rows of the accepted nodes ``path`` (root first) and drop the rest of the tree."""
        if path[-1] != len(path) - 1:
            self.context.move(self.length + np.asarray(path), self.length)
        self.length += len(path)

    def lane(self, part: Tree | Chunk) -> TargetLane:
        """The rows of ``part`` behind the committed ones."""
        start = self.length
        if isinstance(part, Tree):
            nodes, visible = np.arange(len(part)), part.ancestor_mask()
            positions = part.depths + start
            return TargetLane(self.context, part.tokens, positions, start, start, visible, nodes, self.exact_rows)
        size = len(part.tokens)
        tokens, rows = np.asarray(part.tokens, dtype=np.int64), np.arange(size)
        # Where calls are padded to a number of rows, a prompt is cut in one way, so its chunks have the same bits.
        exact_rows = size if self.exact_rows else 0
        visible = np.tri(size, dtype=bool)
        wanted = rows if part.scored else rows[-1:]
        return TargetLane(self.context, tokens, start + rows, start, start, visible, wanted, exact_rows)
