"""What is recorded of texts: the target's tokens, and the draft's candidates at every exit.

A target's text is fixed by prompt, seed and temperature, whatever drafts. The draft's candidates depend on the tokens
before them alone. So a recording holds all that decoding with any policy would meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.backends import Candidates


@dataclass(slots=True, eq=False)
class TextRecord:
    """One text of a target, and the draft's candidates after it and after what was drafted from it.

    A *node* is a context: node p < ``len(text)`` is the text up to and including its token p; further nodes leave the
    text, each by one token after its parent. ``continuation`` is what the target would write behind the end of the
    text: the last step may draft so far. ``limit`` is the largest number of new tokens that the text could have had.
    """

    category: str
    prompt: list[int]
    tokens: list[int]
    continuation: list[int]
    seed: int
    limit: int
    text: list[int] = field(init=False)
    off_text: list[tuple[int, int]] = field(default_factory=list)
    """For each node that left the text, its parent and its token."""
    candidates: dict[int, list[Candidates]] = field(default_factory=dict)
    """By node and exit: ids int64 and log-probabilities float32, both ``[1, head_top_k]``, best first."""
    missing: set[int] = field(default_factory=set)
    """Nodes whose candidates were asked for and are not recorded yet."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = [*self.prompt, *self.tokens, *self.continuation]
        first = len(self.text)
        self._children = {edge: first + index for index, edge in enumerate(self.off_text)}

    def child(self, node: int, token: int) -> int:
        """The context of ``node`` and one more ``token``."""
        text = self.text
        if node + 1 < len(text) and text[node + 1] == token:
            return node + 1
        known = self._children.get((node, token))
        if known is None:
            known = self._children[node, token] = len(text) + len(self.off_text)
            self.off_text.append((node, token))
        return known

    def parent(self, node: int) -> tuple[int, int]:
        """The context before a node, and the node's own token."""
        length = len(self.text)
        return self.off_text[node - length] if node >= length else (node - 1, self.text[node])

    def position(self, node: int) -> int:
        """The position of a node's token in its text."""
        while node >= len(self.text):
            return 1 + self.position(self.off_text[node - len(self.text)][0])
        return node

    @property
    def drafted_from(self) -> range:
        """The nodes of the text that a step can draft from."""
        return range(len(self.prompt), len(self.text))


@dataclass(frozen=True, slots=True)
class PairShape:
    """What replaying needs to know of a draft and a target. ``draft_lanes`` are numbers of lanes of a draft's call."""

    target: str
    draft: str
    exits: tuple[int, ...]
    head_top_k: int
    draft_length: int
    draft_vocab: int
    draft_lanes: tuple[int, ...]
    target_rows: int
    target_drafts: str


@dataclass(slots=True)
class Recording:
    """Texts of one target at one temperature, with one draft."""

    pair: PairShape
    temperature: float
    texts: list[TextRecord]

    @property
    def complete(self) -> bool:
        """Whether no candidates were asked for in vain."""
        return not any(text.missing for text in self.texts)

    def subset(self, indices: Sequence[int]) -> Recording:
        """The recording of some texts; they are shared, not copied."""
        return Recording(self.pair, self.temperature, [self.texts[index] for index in indices])


def nothing_drafted(rows: int, top_k: int) -> Candidates:
    """Candidates of probability zero: no node follows from them."""
    return np.zeros((rows, top_k), np.int64), np.full((rows, top_k), -np.inf, np.float32)
