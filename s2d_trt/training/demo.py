"""Make the demo checkpoints: one sorted draft and two targets, trained on Python's own standard library.

The text is the source of the running interpreter's standard library (without its tests), which every
machine has; a fixed list of modules is held out and used for evaluation only. The same command trains
the tokenizer, a byte-level BPE. Steps and shapes are fixed, so the command reproduces the shipped
checkpoints, except for differences in the interpreter's version and in rounding.

  python -m s2d_trt.training.demo                 # about two hours on two CPU cores; resumable
  python -m s2d_trt.training.demo --only target-17m

The order is target-17m, target-6m, draft: the draft is distilled from the larger target.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2d_trt.training.corpus import Files
    from s2d_trt.training.dataset import Text
    from s2d_trt.training.evaluate import Evaluation

PROG = "python -m s2d_trt.training.demo"

HELD_OUT = (
    "argparse.py", "bisect.py", "concurrent/futures/*.py", "configparser.py", "csv.py", "dataclasses.py",
    "email/header.py", "fractions.py", "graphlib.py", "heapq.py", "http/cookies.py", "json/*.py",
    "logging/handlers.py", "plistlib.py", "queue.py", "sched.py", "selectors.py", "shlex.py", "statistics.py",
    "tempfile.py", "textwrap.py", "tomllib/*.py", "wsgiref/*.py", "xmlrpc/*.py", "zipapp.py",
)  # fmt: skip
"""Modules of the standard library (3.11 and later) that are held out from training."""

EXCLUDE = ("site-packages/*", "dist-packages/*", "*test*", "encodings/*", "lib2to3/*", "pydoc_data/*", "config-*/*")
"""Installed packages, tests and generated tables, which are no part of the training text."""

VOCABULARY = 2048
SEQUENCE = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """One checkpoint: its sizes, its exits and its training schedule."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    exits: tuple[int, ...]
    exit_weights: tuple[float, ...]
    steps: int
    lr: float
    micro_windows: int
    teacher: str | None = None
    distill_from: float = 0.0


PLANS = (
    # Deep and narrow: a target's cost grows with its depth, so a shallow exit can be much cheaper.
    Plan("target-17m", 192, 40, 6, 2, 576, (40,), (1.0,), steps=420, lr=4e-3, micro_windows=4),
    Plan("target-6m", 160, 20, 5, 1, 448, (20,), (1.0,), steps=330, lr=4e-3, micro_windows=4),
    # Deeper exits weigh more: with equal weights a model this small learns three equal exits.
    Plan(
        "draft", 128, 12, 4, 2, 352, (6, 9, 12), (0.4, 0.6, 1.0),
        steps=1000, lr=4e-3, micro_windows=4, teacher="target-17m", distill_from=0.65,
    ),
)  # fmt: skip
BATCH = 8
DISTILL = 0.8


def main(argv: Sequence[str]) -> None:
    """Train the checkpoints that are missing in the output folder, in order."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--out", type=Path, default=Path("engines/demo"), help="folder to write to (%(default)s)")
    parser.add_argument("--only", choices=[plan.name for plan in PLANS], help="train just this checkpoint")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path.home() / ".cache/s2d-trt/training",
        help="folder for the states of stopped runs (%(default)s)",
    )
    options = parser.parse_args(argv)

    wanted = [plan for plan in PLANS if options.only in (None, plan.name)]
    for plan in [plan for plan in wanted if (options.out / plan.name).exists()]:
        print(f"{options.out / plan.name} exists; delete it to train it again", flush=True)
        wanted.remove(plan)
    names = [plan.name for plan in wanted]
    for plan in wanted:
        if plan.teacher and plan.teacher not in names and not (options.out / plan.teacher).exists():
            raise OptionError(
                f"{plan.name} is distilled from {options.out / plan.teacher}; train that first (--only {plan.teacher})"
            )
    if not wanted:
        return

    require_torch()
    from s2d_trt.training import corpus
    from s2d_trt.training.checkpoint import Vocabulary
    from s2d_trt.training.dataset import Dataset

    files = scan_library(Path(sysconfig.get_paths()["stdlib"]))
    tokenizer = corpus.train_tokenizer(map(corpus.read_text, files.train), VOCABULARY)
    vocabulary = Vocabulary.trained(tokenizer)
    text = Dataset("text", files).read(vocabulary, vocabulary.size)
    print(
        f"Python {sys.version.split()[0]} standard library: {len(files.train)} files, {len(text.train):,} tokens;"
        f" {len(files.held_out)} files, {len(text.held_out):,} tokens held out",
        flush=True,
    )
    for plan in wanted:
        print(f"training {plan.name}: {plan.steps} steps of {BATCH * SEQUENCE:,} tokens", flush=True)
        _train(plan, text, options.out, options.state)


def scan_library(library: Path) -> Files:
    """The source files of the standard library in ``library``, split into training and held-out files."""
    from s2d_trt.training.corpus import Files

    return Files.scan(library, (".py",), EXCLUDE, HELD_OUT)


def _train(plan: Plan, text: Text, out: Path, state: Path) -> None:
    from s2d_trt.training import checkpoint
    from s2d_trt.training.model import new_model
    from s2d_trt.training.objective import Objective
    from s2d_trt.training.pipeline import Run, make_checkpoint
    from s2d_trt.training.recipe import Recipe

    teacher = checkpoint.load(out / plan.teacher) if plan.teacher else None
    recipe = Recipe(
        exits=plan.exits,
        objective=Objective(plan.exit_weights, 0.0 if teacher is None else DISTILL),
        steps=plan.steps,
        batch_windows=BATCH,
        micro_windows=plan.micro_windows,
        lr=plan.lr,
        distill_from=plan.distill_from,
    )
    spec = ModelSpec.llama(
        hidden=plan.hidden, layers=plan.layers, heads=plan.heads, kv_heads=plan.kv_heads, ffn=plan.ffn,
        vocab=text.vocabulary.size, tied=True,
    )  # fmt: skip
    # The draft is compared with every target in the folder, not only with its teacher.
    names = [other.name for other in PLANS if len(other.exits) == 1 and (out / other.name).exists()]
    targets = {name: out / name for name in names} if len(plan.exits) > 1 else {}
    model = new_model(spec, SEQUENCE, plan.exits, recipe.seed, text.vocabulary)

    def card(model: PreTrainedModel, result: Evaluation | None) -> str:
        return _card(plan, model, text, result)

    run = Run(recipe, SEQUENCE, out / plan.name, state / f"{plan.name}.pt")
    make_checkpoint(run, model, text, card, teacher, targets)


def _card(plan: Plan, model: PreTrainedModel, text: Text, result: Evaluation | None) -> str:
    from s2d_trt.training import evaluate

    tokens = text.train.ids
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    seen = plan.steps * BATCH * SEQUENCE
    lines = [
        f"# {plan.name}: a demo checkpoint of s2d-trt",
        "",
        f"Llama architecture, {parameters:.1f}M parameters (hidden {plan.hidden}, {plan.layers} layers, "
        f"{plan.heads}/{plan.kv_heads} heads, feed-forward {plan.ffn}, vocabulary {model.config.vocab_size}, "
        f"tied embeddings), bf16.",
        "",
        f"- Made by `{PROG} --only {plan.name}`.",
        f"- Data: the sources of CPython {sys.version.split()[0]}'s standard library without its tests "
        f"(Python Software Foundation License), {len(tokens):,} tokens; the held-out modules are listed in "
        "`s2d_trt/training/demo.py`.",
        f"- Training: {plan.steps} steps of {BATCH * SEQUENCE:,} tokens ({seen / 1e6:.1f}M tokens, "
        f"{seen / len(tokens):.2f} passes), windows of {SEQUENCE}, peak learning rate {plan.lr}, Muon and AdamW.",
    ]
    if plan.teacher:
        lines.append(
            f"- SoFT at exits {', '.join(map(str, plan.exits))} with weights {', '.join(map(str, plan.exit_weights))};"
            f" from {plan.distill_from:.0%} of the steps on, {DISTILL:.0%} of the loss is distillation from"
            f" {plan.teacher}."
        )
    if result is not None:
        lines += ["", f"Held out ({result.positions:,} positions), measured with the bf16 weights:", ""]
        lines += [evaluate.table(result)]
    lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(PROG, main)
