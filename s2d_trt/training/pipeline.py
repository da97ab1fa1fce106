"""The stages that every checkpoint goes through: train, measure on held-out text, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from s2d_trt.training import checkpoint, corpus, evaluate
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import Shape, new_model
from s2d_trt.training.trainer import Recipe, Trainer

HELD_OUT_WINDOWS = 256
"""Most windows that an evaluation reads."""

Card = Callable[[LlamaForCausalLM, evaluate.Evaluation | None], str]
"""Makes the model card from the trained model and its held-out figures."""


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids to train on, int32 ``[n]``, and those held out (may be empty)."""

    vocabulary: Vocabulary
    train: np.ndarray
    held_out: np.ndarray

    @classmethod
    def read(cls, files: corpus.TextFiles, vocabulary: Vocabulary) -> Text:
        """Tokenize the files."""
        tokenizer = vocabulary.tokenizer
        return cls(vocabulary, corpus.tokenize(tokenizer, files.train), corpus.tokenize(tokenizer, files.held_out))


@dataclass(frozen=True, slots=True)
class Run:
    """One checkpoint to make: its sizes, how it is trained, where it goes and where a stopped run waits."""

    shape: Shape
    recipe: Recipe
    out: Path
    state: Path
    compile_layers: bool = True
    save_every: int = 100


def make_checkpoint(
    run: Run,
    text: Text,
    card: Card,
    teacher: LlamaForCausalLM | None = None,
    targets: Mapping[str, LlamaForCausalLM] | None = None,
) -> None:
    """Train by ``run`` from its seed or its saved state, print the held-out figures, and write ``run.out``.

    ``targets`` are the models whose greedy choice each exit is compared with. The state is deleted at the end.

    Raises:
        OptionError: too little text, or the state belongs to another run; nothing is written then.
    """
    length, exits = run.shape.max_length, run.recipe.exits
    windows = corpus.Windows(text.train, length, run.recipe.seed)
    held_out = corpus.held_out_windows(text.held_out, length, HELD_OUT_WINDOWS) if len(text.held_out) else None

    model = new_model(run.shape, exits, run.recipe.seed, text.vocabulary)
    Trainer(model, run.recipe, windows, run.state, teacher, run.compile_layers).train(run.save_every)

    # Measured with the weights as they ship.
    model.to(torch.bfloat16).to(torch.float32)
    result = None
    if held_out is not None:
        result = evaluate.evaluate(model, exits, held_out, targets or {})
        print(evaluate.table(result), flush=True)
    checkpoint.publish(model, text.vocabulary, exits, run.out, card(model, result))
    run.state.unlink(missing_ok=True)
    print(f"wrote {run.out}", flush=True)
