"""The stages that every checkpoint goes through: train, measure on held-out text, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from s2d_trt.training import checkpoint, evaluate, plot
from s2d_trt.training.dataset import Text
from s2d_trt.training.recipe import Recipe
from s2d_trt.training.trainer import Trainer
from s2d_trt.training.windows import Windows, held_out_windows

Card = Callable[[PreTrainedModel, evaluate.Evaluation | None], str]
"""Makes the model card from the trained model and its held-out figures."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a checkpoint is trained and evaluated, where it is written, and the file that holds a stopped run.

    ``length`` is the number of tokens in a window, ``held_out_length`` that of the evaluation if it is another;
    ``save_every`` counts steps.
    """

    recipe: Recipe
    length: int
    out: Path
    state: Path
    compile_layers: bool = True
    save_every: int = 100
    held_out_windows: int = 256
    """Most windows that the evaluation uses."""
    held_out_length: int | None = None


def make_checkpoint(
    run: Run,
    model: PreTrainedModel,
    text: Text,
    card: Card,
    teacher: PreTrainedModel | None = None,
    targets: Mapping[str, Path] | None = None,
) -> None:
    """Train ``model``, from the saved state if there is one, print the held-out figures, and write ``run.out``.

    ``targets`` are the checkpoints whose greedy choice each exit is compared with. The figures are written to the model
    card and plotted in ``report.svg`` beside it. The saved state is deleted at the end. With several processes, all of
    them train, and the first does the rest.

    Raises:
        OptionError: there is too little text, or the state belongs to another run; nothing is written.
    """
    exits = run.recipe.exits
    windows = Windows(text.train, run.length, run.recipe.seed)
    held_out = None
    if len(text.held_out):
        held_out = held_out_windows(text.held_out, run.held_out_length or run.length, run.held_out_windows)
    trainer = Trainer(model, run.recipe, windows, run.state, teacher, run.compile_layers)
    trainer.train(run.save_every)
    trainer.close()
    if not trainer.is_main:
        return

    # Evaluate the bf16 weights that are published.
    model.to(torch.bfloat16).to(torch.float32)
    result, documents = None, {}
    if held_out is not None:
        result = evaluate.evaluate(model, exits, held_out, targets or {})
        print(evaluate.table(result), flush=True)
        documents["report.svg"] = plot.draw(result)
    checkpoint.publish(model, text.vocabulary, exits, run.out, {"README.md": card(model, result), **documents})
    run.state.unlink(missing_ok=True)
    print(f"wrote {run.out}", flush=True)
