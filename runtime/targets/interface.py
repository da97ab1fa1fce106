"""What decoding asks of a target, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from runtime.backends import Clock, Logits
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.manifest import TokenizerSpec


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt: ``tokens`` behind the committed ones. Only the last token's logits are computed, or with
    ``scored`` those of every token.
    """

    tokens: Sequence[int]
    scored: bool = False

    @property
    def last_row(self) -> int:
        """The row of the last token's logits."""
        return len(self.tokens) - 1 if self.scored else 0

    def __len__(self) -> int:
        return len(self.tokens)


class TargetSequence(Protocol):
    """One text in a target."""

    @property
    def length(self) -> int:
        """Committed tokens."""

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Commit a prompt behind what is there; the logits [V] after its last token, valid until the next call."""

    def verify(self, tree: Tree) -> Logits:
        """Logits at every node of ``tree``, whose root follows the committed tokens; valid until the next call."""

    def commit(self, path: Sequence[int]) -> None:
        """Keep the accepted nodes ``path`` (root first) and drop the rest of the tree."""


@runtime_checkable
class CopyableSequence(TargetSequence, Protocol):
    """A text in a target that ``keeps_prefixes``."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of committed rows."""

    def restore(self, blocks: Sequence[np.ndarray]) -> None:
        """Commit copied rows in place of a prefill."""


Part = tuple[Any, Tree | Chunk]
"""A text's part in a call: its sequence, and what it runs."""


class TargetModel(Protocol):
    """A model to speed up."""

    name: str
    clock: Clock
    turn: Lock
    """Held by the thread that uses the target."""
    identity: str
    """A text that differs where the model, its precision, or the device that it runs on differs."""
    max_length: int
    """Most tokens of a text."""
    vocab_size: int
    max_rows: int
    """Most nodes in one tree, the root included."""
    prompt_rows: int
    """Most tokens of a prompt in one call."""
    drafts: Literal["tree", "chain"]
    """What it can verify."""
    tokenizer: TokenizerSpec
    tokenizer_path: Path

    @property
    def lanes(self) -> tuple[int, ...]:
        """Numbers of texts that one call may take, rising from 1."""

    @property
    def token_bytes(self) -> int:
        """Bytes that a committed token takes in a cache."""

    @property
    def keeps_prefixes(self) -> bool:
        """Whether rows can be copied from text to text, and a prompt may be cut anywhere.

        Other targets' prompts are cut every ``prompt_rows`` tokens.
        """

    @property
    def exact_by_default(self) -> bool:
        """Whether requests are exact unless they say otherwise."""

    def companion(self, name: str) -> Path | None:
        """A file that came with the model, like ``chat_template.jinja``, or None."""

    def check_shape(self, shape: TreeShape) -> None:
        """Raise OptionError where one call cannot hold such a tree."""

    def check_scores(self, needing: Sequence[str]) -> None:
        """Raise OptionError where the target gives no scores; ``needing`` names the options in use that need them."""

    def check_exact(self, progress: Callable[[str], None], texts: int = 1) -> None:
        """Raise S2DError where outputs that are bit-identical to the target alone cannot be promised.

        Calls of up to so many ``texts`` are checked too; those that change bits are not used afterwards.
        """

    def open_lanes(self, texts: int) -> None:
        """Load what calls of up to so many texts need, which takes seconds for a large model."""

    def lease(self, exact_rows: int = 0) -> TargetSequence:
        """A sequence without tokens. With ``exact_rows``, calls of at most so many rows give a row the same bits."""

    def run(self, parts: Sequence[Part]) -> Sequence[Logits]:
        """Run a part of each of several texts, in as few calls as the engine allows.

        The root of a tree follows the committed tokens; the logits are those at every node. A chunk is committed; the
        logits have a row for its last token, or for each. All are valid until the next call.
        """

    def release(self, sequence: Any) -> None:
        """Take a sequence that was leased here back for the next text."""
