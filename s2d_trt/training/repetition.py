"""How long a model's greedy texts are before they repeat themselves, a sign of too little training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from s2d_trt.training.samples import continue_texts
from s2d_trt.training.windows import Stream, held_out_windows

RUN = 16
"""Tokens that count as a repetition when they occur again."""


def first_repeat(tokens: Sequence[int], run: int = RUN) -> int:
    """Number of tokens before the last token of a run of ``run`` tokens that occurs again; all if none does."""
    seen: set[tuple[int, ...]] = set()
    for end in range(run, len(tokens) + 1):
        piece = tuple(tokens[end - run : end])
        if piece in seen:
            return end - 1
        seen.add(piece)
    return len(tokens)


def greedy_lengths(model: PreTrainedModel, text: Stream, texts: int, prompt: int, length: int) -> list[int]:
    """``first_repeat`` of what the model writes greedily after each of ``texts`` prompts from ``text``.

    A prompt has ``prompt`` tokens, the text with its prompt ``length``. Prompts may not be repeated either.
    """
    prompts = torch.from_numpy(held_out_windows(text, prompt, texts).inputs)
    written = continue_texts(model.eval(), prompts, length, torch.zeros(len(prompts)), seed=0)
    return [max(0, first_repeat(row) - prompt) for row in written.tolist()]
