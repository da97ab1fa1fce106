"""The target: scores a whole tree in one call, and keeps what was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from runtime.backends.onnxruntime import Binding, Clock, Engine, Shapes
from runtime.kv import KVCache
from runtime.tree import Tree, TreeShape
from s2d_trt import names
from s2d_trt.bundle import SCRATCH_ROWS, Bundle
from s2d_trt.errors import CapacityError, OptionError, S2DError

PREFILL_CHUNK = 128
"""Most prompt rows in one call."""


class Target:
    """A target bundle on ONNX Runtime. Any number of slots take turns on its one engine.

    ``exact`` never calls the engine with one row: ONNX Runtime gives a row the same bits however many
    others join it, but computes a lone row by another path. A masked dummy row keeps it company.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        manifest = bundle.manifest
        self.bundle, self.name, self.spec = bundle, manifest.name, manifest.model
        self.max_length, self.vocab_size = manifest.cache.max_length, manifest.model.vocab_size
        self._engine = Engine(bundle, names.TARGET, threads)
        self.threads = threads
        self._free: list[TargetSlot] = []

    @classmethod
    def open(cls, directory: Path, threads: int | None = None, verify: bool = False) -> Target:
        """Load a target bundle. Raises BundleError."""
        return cls(Bundle.open(directory, "target", verify), threads)

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where the scratch rows cannot hold such a tree."""
        if shape.verify_rows > SCRATCH_ROWS:
            raise OptionError(
                f"a tree of {shape.verify_rows} nodes is more than the target verifies at once; allow at most"
                f" {SCRATCH_ROWS} nodes"
            )

    def lease(self, exact: bool = False) -> TargetSlot:
        """A slot for one text, emptied; give it back with ``release``."""
        slot = self._free.pop() if self._free else TargetSlot(self, self._engine)
        slot.length, slot.exact, slot.clock.seconds = 0, exact, 0.0
        return slot

    def release(self, slot: TargetSlot) -> None:
        """Take a slot back for the next text."""
        self._free.append(slot)

    def check_exact(self) -> None:
        """Compare the bits of rows computed two and nine at a time, on this machine.

        Raises:
            S2DError: they differ, so that ``exact`` cannot be promised here.
        """
        tokens = np.random.default_rng(0).integers(0, self.vocab_size, 12)
        together, apart = self.lease(exact=True), self.lease(exact=True)
        try:
            prefix = [int(token) for token in tokens[:3]]
            chain = Tree(tokens[3:], np.arange(-1, 8), np.arange(9), np.zeros(9))
            together.prefill(prefix)
            apart.prefill(prefix)
            expected = together.verify(chain).copy()
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


class TargetSlot:
    """The cache and bindings of one text: ``length`` rows are committed, the tree's rows follow as scratch."""

    def __init__(self, target: Target, engine: Engine) -> None:
        self._target, self.clock = target, Clock()
        spec = target.spec
        self._cache = KVCache(spec.num_hidden_layers, target.max_length + SCRATCH_ROWS, spec.kv_width)
        self._layers = range(spec.num_hidden_layers)
        self._binding: Binding = engine.binding(self.clock)
        self.length = 0
        self.exact = False

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
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = ids[start : start + PREFILL_CHUNK]
            size = len(chunk)
            last = self._run(chunk, np.arange(size), np.tri(size, dtype=bool), np.array([size - 1]))
            self.length += size
        logits: np.ndarray = last[0]
        return logits

    def verify(self, tree: Tree) -> np.ndarray:
        """Logits [n, V] at every node of ``tree``, whose root follows the committed rows; valid until the next call."""
        return self._run(tree.tokens, tree.depths, tree.ancestor_mask(), np.arange(len(tree)))

    def commit(self, path: Sequence[int]) -> None:
        """Keep the rows of the accepted nodes ``path`` (root first) and drop the rest of the tree."""
        if path[-1] != len(path) - 1:
            self._cache.move(self.length + np.asarray(path), self.length)
        self.length += len(path)

    def truncate(self, length: int) -> None:
        """Forget what follows the first ``length`` positions."""
        self.length = min(self.length, length)

    def _run(self, tokens: np.ndarray, depths: np.ndarray, mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """One call: ``mask`` [n, n] says which of the new rows each may read; all read the committed ones."""
        asked = len(rows)
        if self.exact:
            tokens, depths, mask, rows = _joined_by_dummy(tokens, depths, mask, rows)
        count, start = len(tokens), self.length
        bucket = self._cache.bucket(start + count)
        shapes = _call_shapes(count, bucket, len(rows), self._target.vocab_size)
        ids, positions, visible, write_index, logit_rows, logits = self._binding.buffers(shapes)
        ids[0] = tokens
        np.add(depths, start, out=positions[0])
        visible[:, :start] = True
        visible[:, start : start + count] = mask
        visible[:, start + count :] = False
        write_index[0] = start
        logit_rows[:] = rows
        self._binding.bind_cache(self._cache, self._layers, bucket)
        self._binding.run()
        return logits[:asked]


@lru_cache(maxsize=1024)
def _call_shapes(count: int, bucket: int, rows: int, vocab_size: int) -> Shapes:
    return (
        (names.INPUT_IDS, (1, count)),
        (names.POSITION_IDS, (1, count)),
        (names.ATTENTION_MASK, (count, bucket)),
        (names.WRITE_INDEX, (1,)),
        (names.LOGIT_ROWS, (rows,)),
        (names.LOGITS, (rows, vocab_size)),
    )


def _joined_by_dummy(
    tokens: np.ndarray, depths: np.ndarray, mask: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two rows at least through the layers, and two at least through the head."""
    if len(tokens) == 1:
        tokens, depths = tokens.repeat(2), depths.repeat(2)
        # The dummy reads itself alone among the new rows, and no row reads it.
        mask = np.eye(2, dtype=bool)
    if len(rows) == 1:
        rows = rows.repeat(2)
    return tokens, depths, mask, rows
