"""What decoding asks of a target, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from runtime.backends import Clock, Logits
from runtime.decoding.sampling import Sampling
from runtime.drafting.tree import Tree, TreeShape
from s2d_trt.bundle import TokenizerSpec


class TargetSequence(Protocol):
    """The state of one text in a target."""

    clock: Clock

    @property
    def length(self) -> int:
        """Committed tokens."""

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Commit a prompt behind what is there; the logits [V] after its last token, valid until the next call."""

    def verify(self, tree: Tree) -> Logits:
        """Logits at every node of ``tree``, whose root follows the committed tokens; valid until the next call."""

    def commit(self, path: Sequence[int]) -> None:
        """Keep the accepted nodes ``path`` (root first) and drop the rest of the tree."""

    def truncate(self, length: int) -> None:
        """Forget what follows the first ``length`` positions."""


class TargetModel(Protocol):
    """A model to speed up."""

    name: str
    identity: str
    """Text that differs where the model, its precision or what it runs on differs."""
    max_length: int
    vocab_size: int
    max_rows: int
    """Most nodes in one tree, the root included."""
    drafts: Literal["tree", "chain"]
    """What it can verify; of a tree, a target of chains takes the best path."""
    tokenizer: TokenizerSpec
    tokenizer_path: Path

    def companion(self, name: str) -> Path | None:
        """A file that came with the model, like ``chat_template.jinja``, or None."""

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where one call cannot hold such a tree."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise OptionError where the target cannot choose tokens so."""

    def check_exact(self) -> None:
        """Raise S2DError where outputs that are bit-identical to the target alone cannot be promised."""

    def lease(self, exact_rows: int = 0) -> TargetSequence:
        """A slot for one text, emptied; see ``TargetContext`` for ``exact_rows``."""

    def release(self, slot: Any) -> None:
        """Take a slot that was leased here back for the next text."""
