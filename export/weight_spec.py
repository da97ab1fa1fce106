"""What a bundle stores of a checkpoint's weights, in which order, form and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from export.encoding import FP32_WEIGHTS, Encoding
from export.heads import folded_order, smallest_fold
from export.tensors import LM_HEAD, checkpoint_shapes, is_matrix
from s2d_trt.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """The weights of one bundle: what is written, how large it is, and what graphs and parity read.

    ``model`` has only the layers that are built. ``max_length`` is the number of rotary positions. ``head_tokens`` are
    the token ids whose rows the head keeps; empty keeps all. ``joined`` makes layers that read the same rows one
    matrix. ``folded`` stores the query heads in the order that ``export.heads`` folds.
    """

    model: ModelSpec
    max_length: int
    encoding: Encoding = FP32_WEIGHTS
    head_tokens: tuple[int, ...] = ()
    joined: bool = True
    folded: bool = True

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor that is read from the checkpoint."""
        return checkpoint_shapes(self.model)

    @property
    def fold(self) -> int:
        """How many query heads become rows of one head in attention."""
        return smallest_fold(self.model) if self.folded else 1

    @property
    def head_order(self) -> tuple[int, ...]:
        """The checkpoint's query heads in the order in which they are stored."""
        return folded_order(self.model, self.fold)

    @property
    def splits_tied_head(self) -> bool:
        """Whether a head that is tied to the embedding is stored beside it, in a form of its own."""
        return self.model.tie_word_embeddings and (self.encoding.quantizes or bool(self.head_tokens))

    @property
    def bytes(self) -> int:
        """Size of the weight file, to a few parts in a thousand: padding and scales of integers are left out."""
        rows = len(self.head_tokens) or self.model.vocab_size
        head = rows * self.model.hidden_size * self.encoding.bits(matrix=True, head=True) // 8
        total = 2 * self.max_length * (self.model.head_dim // 2) * 4
        total += head if self.splits_tied_head or not self.model.tie_word_embeddings else 0
        for name, shape in self.shapes.items():
            if name != LM_HEAD:
                total += math.prod(shape) * self.encoding.bits(is_matrix(name, shape)) // 8
        return total
