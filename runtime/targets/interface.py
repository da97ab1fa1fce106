"""What decoding asks of a target, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from runtime.backends import Clock, Logits
from runtime.sampling.options import Sampling
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.bundle import TokenizerSpec


class TargetSequence(Protocol):
    """One text in a target."""

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


class TargetModel(Protocol):
    """A model to speed up."""

    name: str
    identity: str
    """A text that differs where the model, its precision, or the device that it runs on differs."""
    max_length: int
    """Most tokens of a text."""
    vocab_size: int
    max_rows: int
    """Most nodes in one tree, the root included."""
    drafts: Literal["tree", "chain"]
    """What it can verify."""
    tokenizer: TokenizerSpec
    tokenizer_path: Path

    @property
    def exact_by_default(self) -> bool:
        """Whether requests are exact unless they say otherwise."""

    def companion(self, name: str) -> Path | None:
        """A file that came with the model, like ``chat_template.jinja``, or None."""

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where one call cannot hold such a tree."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise OptionError where the target cannot choose tokens so."""

    def check_exact(self, progress: Callable[[str], None]) -> None:
        """Raise S2DError where outputs that are bit-identical to the target alone cannot be promised."""

    def lease(self, exact_rows: int = 0) -> TargetSequence:
        """A sequence without tokens. With ``exact_rows``, calls of at most so many rows give a row the same bits."""

    def release(self, sequence: Any) -> None:
        """Take a sequence that was leased here back for the next text."""
