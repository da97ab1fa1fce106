"""Make the demo checkpoints: one sorted draft and two targets, trained on Python sources.

The text is what every machine with the training extra has: the running interpreter's standard library and the sources
of packages that the extra installs. Some modules and some whole packages are held out for evaluation. The standard
library also trains the tokenizer, a byte-level BPE. The draft is distilled from the larger target, half on texts that
this target writes and half on the sources.

  python -m s2d_trt.training.demo                 # resumable: the same command goes on where it stopped
  python -m s2d_trt.training.demo --only target-17m

Several processes share the work, on a CPU too, where two with one thread each are faster than one with two:

  ACCELERATE_USE_CPU=true accelerate launch --cpu --num_processes 2 -m s2d_trt.training.demo
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2d_trt.training.dataset import Text
    from s2d_trt.training.evaluate import Evaluation

PROG = "python -m s2d_trt.training.demo"

VOCABULARY = 2048
CONTEXT = 2048
WINDOW = 256
"""Tokens of a window until ``LONG_FROM`` of the steps; then it is the whole context."""
LONG_FROM = 0.85


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
    teacher: str | None = None


PLANS = (
    # Deep and narrow: a target's cost grows with its depth, so a shallow exit can be much cheaper.
    Plan("target-17m", 192, 40, 6, 2, 576, (40,), (1.0,), steps=1400, lr=4e-3),
    Plan("target-6m", 160, 20, 5, 1, 448, (20,), (1.0,), steps=800, lr=4e-3),
    # Deeper exits weigh more: with equal weights a model this small learns three equal exits.
    Plan("draft", 128, 12, 4, 2, 352, (6, 9, 12), (0.4, 0.6, 1.0), steps=1200, lr=4e-3, teacher="target-17m"),
)
BATCH = 16
MICRO = 8
DISTILL = 0.8
SAMPLES = 4096
PROMPT = 32
"""Texts of ``WINDOW`` tokens that the teacher writes, and how many of their tokens are given to it."""
HELD_OUT_WINDOW = 512
HELD_OUT_WINDOWS = 32
"""Tokens of a window of the first table, and most windows of ``CONTEXT`` tokens of a category of the second."""
GREEDY_TEXTS = 32


def main(argv: Sequence[str]) -> None:
    """Train the checkpoints that are missing in the output folder, in order."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--out", type=Path, default=Path("engines/demo"), help="folder to write to (%(default)s)")
    parser.add_argument("--only", choices=[plan.name for plan in PLANS], help="train just this checkpoint")
    parser.add_argument(
        "--begin", type=Path, metavar="DIR", help="go on from the checkpoints and the tokenizer in this folder"
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path.home() / ".cache/s2d-trt/training",
        help="folder for tokens, samples and the states of stopped runs (%(default)s)",
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
    from s2d_trt.training import corpus, sources
    from s2d_trt.training.checkpoint import Vocabulary
    from s2d_trt.training.dataset import Text
    from s2d_trt.training.windows import Stream

    if options.begin:
        vocabulary = Vocabulary.load(options.begin / wanted[0].name)
    else:
        texts = map(corpus.read_text, sources.library().train)
        vocabulary = Vocabulary.trained(corpus.train_tokenizer(texts, VOCABULARY))
    ids = corpus.cached(
        options.state / f"tokens-{sources.digest(vocabulary.tokenizer)}.npy",
        lambda: corpus.tokenize(vocabulary.tokenizer, sources.training_files()),
    )
    held_out = corpus.tokenize(vocabulary.tokenizer, sources.library().held_out)
    text = Text(vocabulary, Stream.whole(ids), Stream.whole(held_out))
    print(f"{sources.describe()}: {len(ids):,} tokens; {len(held_out):,} tokens held out", flush=True)
    for plan in wanted:
        print(f"training {plan.name}: {plan.steps} steps of {BATCH * WINDOW:,} tokens", flush=True)
        _train(plan, text, options.out, options.state, options.begin)


def _train(plan: Plan, text: Text, out: Path, state: Path, begin: Path | None) -> None:
    from s2d_trt.training import checkpoint
    from s2d_trt.training.model import new_model
    from s2d_trt.training.objective import Objective
    from s2d_trt.training.pipeline import Run, make_checkpoint
    from s2d_trt.training.recipe import Recipe
    from s2d_trt.training.trainer import weights_digest

    teacher = None
    if plan.teacher:
        teacher = checkpoint.load(out / plan.teacher)
        text = _with_samples(text, teacher, state / f"samples-{weights_digest(teacher)[:12]}")
    recipe = Recipe(
        exits=plan.exits,
        objective=Objective(plan.exit_weights, 0.0 if teacher is None else DISTILL),
        steps=plan.steps,
        batch_windows=BATCH,
        micro_windows=MICRO,
        lr=plan.lr,
        stretch=CONTEXT // WINDOW,
        stretch_from=LONG_FROM,
    )
    if begin:
        model = checkpoint.load(begin / plan.name)
        model.config.max_position_embeddings = CONTEXT
    else:
        spec = ModelSpec.llama(
            hidden=plan.hidden, layers=plan.layers, heads=plan.heads, kv_heads=plan.kv_heads, ffn=plan.ffn,
            vocab=text.vocabulary.size, tied=True,
        )  # fmt: skip
        model = new_model(spec, CONTEXT, plan.exits, recipe.seed, text.vocabulary)
    # The draft is compared with every target in the folder, not only with its teacher.
    names = [other.name for other in PLANS if len(other.exits) == 1 and (out / other.name).exists()]
    targets = {name: out / name for name in names} if len(plan.exits) > 1 else {}

    def card(model: PreTrainedModel, result: Evaluation | None) -> str:
        return _card(plan, model, text, result)

    run = Run(
        recipe, WINDOW, out / plan.name, state / f"{plan.name}.pt", save_every=25, held_out_length=HELD_OUT_WINDOW
    )
    make_checkpoint(run, model, text, card, teacher, targets)


def _with_samples(text: Text, teacher: PreTrainedModel, folder: Path) -> Text:
    """Half the teacher's own texts, half the training text."""
    from s2d_trt.training.dataset import Text
    from s2d_trt.training.samples import sampled_stream
    from s2d_trt.training.windows import Stream, Windows

    samples = sampled_stream(teacher, text.train, folder, SAMPLES, WINDOW, PROMPT, batch=64, seed=1)
    windows = Windows(text.train, CONTEXT, seed=2).batch(0, -(-len(samples) // CONTEXT))
    return Text(text.vocabulary, Stream.join([samples, Stream.whole(windows.inputs.ravel())]), text.held_out)


def _card(plan: Plan, model: PreTrainedModel, text: Text, result: Evaluation | None) -> str:
    from s2d_trt.training import evaluate, sources

    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    seen = plan.steps * BATCH * WINDOW
    lines = [
        f"# {plan.name}: a demo checkpoint of s2d-trt",
        "",
        f"Llama architecture, {parameters:.1f}M parameters (hidden {plan.hidden}, {plan.layers} layers, "
        f"{plan.heads}/{plan.kv_heads} heads, feed-forward {plan.ffn}, vocabulary {model.config.vocab_size}, "
        f"tied embeddings), bf16, context {CONTEXT}.",
        "",
        f"- Made by `{PROG} --only {plan.name}`.",
        f"- Data: Python sources without tests of {sources.describe()}; {len(text.train):,} tokens. What is held out is"
        " listed in `s2d_trt/training/sources.py`.",
        f"- Training: {plan.steps} steps of {BATCH * WINDOW:,} tokens ({seen / 1e6:.1f}M tokens), windows of {WINDOW}"
        f" tokens, in the last {1 - LONG_FROM:.0%} of the steps of {CONTEXT}; peak learning rate {plan.lr}, Muon and"
        " AdamW.",
    ]
    if plan.teacher:
        exits, weights = (", ".join(map(str, numbers)) for numbers in (plan.exits, plan.exit_weights))
        lines += [
            f"- SoFT at exits {exits} with weights {weights}; {DISTILL:.0%} of the loss is distillation from"
            f" {plan.teacher}. Half the text is sources, half was sampled from {plan.teacher} at temperatures from"
            " 0 to 1."
        ]
    if result is not None:
        lines += [
            "",
            f"Held-out modules of the standard library, {result.positions:,} positions in windows of {HELD_OUT_WINDOW}"
            " tokens, measured with the bf16 weights:",
            "",
            evaluate.table(result),
        ]
    lines += ["", f"Loss in windows of {CONTEXT} tokens:", "", *_categories(plan, model, text)]
    if not plan.teacher:
        lines += ["", _repetition(model, text)]
    return "\n".join([*lines, ""])


def _categories(plan: Plan, model: PreTrainedModel, text: Text) -> Iterator[str]:
    """A Markdown table of the loss of each exit on each category of held-out text."""
    from s2d_trt.training import corpus, evaluate, sources
    from s2d_trt.training.windows import Stream, held_out_windows

    yield "| held out | positions |" + "".join(f" exit {exit_} |" for exit_ in plan.exits)
    yield "|---|---|" + "---|" * len(plan.exits)
    for name, files in sources.held_out_files().items():
        stream = Stream.whole(corpus.tokenize(text.vocabulary.tokenizer, files))
        windows = held_out_windows(stream, CONTEXT, HELD_OUT_WINDOWS)
        found = evaluate.evaluate(model, plan.exits, windows, {}, batch=1)
        yield f"| {name} | {found.positions:,} |" + "".join(f" {loss:.4f} |" for loss in found.loss)


def _repetition(model: PreTrainedModel, text: Text) -> str:
    from s2d_trt.training.repetition import RUN, greedy_lengths

    lengths = greedy_lengths(model, text.held_out, GREEDY_TEXTS, 2 * PROMPT, CONTEXT // 2)
    return (
        f"A greedy text after {2 * PROMPT} held-out tokens has {median(lengths):.0f} tokens (median of"
        f" {len(lengths)}) before it repeats a run of {RUN}; the longest has"
        f" {max(lengths)}."
    )


if __name__ == "__main__":
    run_command(PROG, main)
