"""Train a sorted draft with SoFT, so that each exit is a usable model.

Every step sums the next-token loss over the exits, which share the final norm and the head
(arXiv 2407.01955). The draft starts from the first layers of a target, or from random weights. With
--teacher it also learns from a target's logits (--distill) or hidden states (--align). With the last
layer as the only exit the result is an ordinary model; the demo targets were made so.

  python -m s2d_trt.training.soft --from-target target/ --layers 12 --exits 6,9,12 --data sharegpt.json --out draft/
  python -m s2d_trt.training.soft --from-target target/ --exits 6,9,12 --data texts/ --teacher target/ --out draft/
  python -m s2d_trt.training.soft --exits 6,9,12 --data texts/ --hidden 256 --heads 8 --out draft/

--data is a file or folder of text (.txt, .md, .py), of conversations (.json, .jsonl: ShareGPT's form or messages
with role and content; only the assistant's turns are learnt) or of token ids (.npy, .bin). Several GPUs:

  accelerate launch --num_processes 8 -m s2d_trt.training.soft --from-target target/ ...

--out becomes a Hugging Face directory: config with the exits, bf16 weights, tokenizer, and a model card with the
held-out loss of each exit and its agreement with each target. Next:
python -m export.build --checkpoint draft/ --out engines/draft.engine

The run can be stopped at any time: the same command continues from the last saved step.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2d_trt.cli import MOST, ArgumentParser, check_exits, comma_floats, comma_ints, number, positive_int, run_command
from s2d_trt.errors import CheckpointError, OptionError, TokenizerMismatchError
from s2d_trt.memory import check_memory
from s2d_trt.spec import ModelSpec
from s2d_trt.tokenizer import tokenizer_fingerprint
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2d_trt.training.checkpoint import Vocabulary
    from s2d_trt.training.dataset import Dataset, Text
    from s2d_trt.training.evaluate import Evaluation
    from s2d_trt.training.recipe import Recipe

PROG = "python -m s2d_trt.training.soft"
SIZES = {"hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 352}
"""Default sizes of a model that starts from random weights."""
DISTILL = 0.7
"""Default share of distillation with --teacher."""
TRAINING_BYTES = 16
"""For each trained number: itself, its gradient, and two that an optimiser keeps."""


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__ or "", PROG)
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, help="file or folder of text, conversations or token ids")
    data.add_argument("--format", choices=("text", "conversations", "tokens"), help="kind of data (default: by suffix)")
    data.add_argument("--suffix", help="text: file endings to read (.txt,.md,.py)")
    data.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="relative paths to leave out")
    data.add_argument("--held-out", action="append", default=[], metavar="GLOB", help="paths kept for evaluation only")
    data.add_argument(
        "--held-out-share", type=number, default=0.02, help="without --held-out: share of the end kept so (%(default)s)"
    )
    data.add_argument("--tokenizer", type=Path, metavar="DIR", help="checkpoint whose tokenizer to use")
    data.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja template in place of the model's own")
    data.add_argument("--vocab-size", type=positive_int, default=4096, help="else train one this large (%(default)s)")
    data.add_argument("--seq-length", type=positive_int, default=512, help="tokens in a window (%(default)s)")
    shape = parser.add_argument_group("model")
    shape.add_argument("--from-target", type=Path, metavar="DIR", help="begin with the first layers of this checkpoint")
    shape.add_argument("--exits", type=comma_ints, required=True, help="layers after which a token may exit: 6,9,12")
    shape.add_argument("--layers", type=positive_int, help="number of layers (default: the last exit)")
    for name, what in (
        ("hidden", "width"),
        ("heads", "attention heads"),
        ("kv-heads", "key/value heads"),
        ("ffn", "feed-forward width"),
    ):
        default = SIZES[name.replace("-", "_")]
        shape.add_argument(f"--{name}", type=positive_int, help=f"from scratch: {what} ({default})")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--exit-weights", type=comma_floats, help="weight of each exit's loss (default: all equal)")
    loss.add_argument("--sft", action="store_true", help="train the last exit alone: the baseline of SoFT")
    loss.add_argument("--pretrain-steps", type=int, default=0, help="first steps that train the last exit alone")
    loss.add_argument("--teacher", type=Path, metavar="DIR", help="target checkpoint to learn from")
    loss.add_argument("--distill", type=number, help=f"share of distillation from its logits ({DISTILL})")
    loss.add_argument("--align", type=number, help="weight of regression on its hidden states (0)")
    loss.add_argument("--distill-from", type=number, help="share of the steps before the teacher is asked (0)")
    run = parser.add_argument_group("optimisation")
    run.add_argument("--steps", type=positive_int, default=1000, help="optimiser steps (%(default)s)")
    run.add_argument("--batch", type=positive_int, default=16, help="windows in a step (%(default)s)")
    run.add_argument("--micro-batch", type=positive_int, default=4, help="windows in a pass, accumulated (%(default)s)")
    run.add_argument(
        "--optimizer", choices=("muon", "adamw"), help="of the layers (default: muon; adamw with --from-target)"
    )
    run.add_argument("--lr", type=number, help="peak learning rate (default: 5e-3 with muon, 2e-5 with adamw)")
    run.add_argument("--seed", type=int, default=0, help="weights and data order (%(default)s)")
    run.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where native")
    run.add_argument("--gradient-checkpointing", action="store_true", help="recompute layers to save memory")
    run.add_argument("--no-compile", action="store_true", help="do not compile the layers (slower, no C++ compiler)")
    run.add_argument("--state", type=Path, help="file that holds a stopped run (default: OUT.state)")
    run.add_argument("--save-every", type=positive_int, default=100, help="steps between saves (%(default)s)")
    report = parser.add_argument_group("result")
    report.add_argument("--out", type=Path, required=True, help="directory to write the checkpoint to")
    report.add_argument(
        "--target", type=Path, action="append", default=[], metavar="DIR",
        help="checkpoint to compare with, beside --from-target and --teacher; may be repeated",
    )  # fmt: skip
    report.add_argument(
        "--held-out-windows", type=positive_int, default=256, help="most windows to evaluate on (%(default)s)"
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Train, evaluate on the held-out data, and write the checkpoint."""
    options = _parser().parse_args(argv)
    options.layers = options.layers or max(options.exits)
    options.exits = check_exits(options.exits, options.layers)
    _check(options)

    # Imported late: torch takes seconds, and --help and wrong options need none of it.
    require_torch()
    from accelerate import Accelerator

    from s2d_trt.training import checkpoint
    from s2d_trt.training.dataset import Dataset
    from s2d_trt.training.pipeline import Run, make_checkpoint

    recipe = _recipe(options)
    data = Dataset.scan(
        options.data, options.format, tuple((options.suffix or "").split(",")) if options.suffix else (),
        options.exclude, options.held_out,
    )  # fmt: skip
    if options.held_out and not data.files.held_out:
        raise OptionError(
            f"--held-out {' '.join(options.held_out)} matches no file of {options.data}; mend the pattern"
        )
    targets = _targets(options)
    for folder in targets.values():
        checkpoint.inspect(folder)
    teacher = checkpoint.load_frozen(options.teacher) if options.teacher else None
    vocabulary = _vocabulary(options, data)
    model = _model(options, vocabulary, teacher)
    text = data.read(vocabulary, model.config.vocab_size)
    if not len(text.held_out) and options.held_out_share:
        text = text.hold_out(options.held_out_share, options.seq_length)
    Accelerator(mixed_precision="no").print(
        f"{len(data.files.train)} files, {len(text.train):,} tokens, {text.train.counted.sum():,} of them learnt;"
        f" {len(text.held_out):,} held out",
        flush=True,
    )
    run = Run(
        recipe,
        options.seq_length,
        out=options.out,
        state=options.state or options.out.with_name(options.out.name + ".state"),
        compile_layers=not options.no_compile,
        save_every=options.save_every,
        held_out_windows=options.held_out_windows,
    )

    def card(_model: PreTrainedModel, result: Evaluation | None) -> str:
        return _card(options, text, result)

    make_checkpoint(run, model, text, card, teacher, targets)


def _check(options: Namespace) -> None:
    if max(options.exits) != options.layers:
        raise OptionError(
            f"the last exit {max(options.exits)} must be the last layer {options.layers}; add it to --exits"
        )
    if options.sft and options.exit_weights:
        raise OptionError("--sft trains the last exit alone; leave --exit-weights out")
    if options.from_target and any(getattr(options, name) is not None for name in SIZES):
        raise OptionError("the sizes of a model --from-target are the target's; leave --hidden, --heads, ... out")
    if options.lr is not None and options.lr <= 0:
        raise OptionError(f"--lr {options.lr} must be above 0")
    for name in ("distill", "align", "distill_from"):
        if getattr(options, name) is not None and not options.teacher:
            raise OptionError(f"--{name.replace('_', '-')} is about what a --teacher says; name one")
    for name in ("distill_from", "held_out_share"):
        if not 0 <= (getattr(options, name) or 0) <= 1:
            raise OptionError(f"--{name.replace('_', '-')} {getattr(options, name)} must lie between 0 and 1")
    for name in ("seed", "pretrain_steps"):
        if not 0 <= getattr(options, name) <= MOST:
            raise OptionError(f"--{name.replace('_', '-')} {getattr(options, name)} must lie between 0 and {MOST}")
    if options.chat_template is not None and not options.chat_template.is_file():
        raise OptionError(f"--chat-template {options.chat_template} is no file; name a Jinja template")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise OptionError(f"{options.out} is not an empty folder; choose another --out or delete it")


def _targets(options: Namespace) -> dict[str, Path]:
    """The checkpoints to compare with, by name, or by path if two have the same name."""
    folders = {path.resolve() for path in (options.from_target, options.teacher, *options.target) if path}
    uses = Counter(folder.name for folder in folders)
    return {folder.name if uses[folder.name] == 1 else str(folder): folder for folder in sorted(folders)}


def _recipe(options: Namespace) -> Recipe:
    from s2d_trt.training.objective import Objective
    from s2d_trt.training.recipe import Recipe

    exits = options.exits
    weights = Objective.last_exit(len(exits)).exit_weights if options.sft else options.exit_weights
    optimizer = options.optimizer or ("adamw" if options.from_target else "muon")
    distill = options.distill if options.distill is not None else DISTILL if options.teacher else 0.0
    return Recipe(
        exits=exits,
        objective=Objective(weights or (1.0,) * len(exits), distill, options.align or 0.0),
        steps=options.steps,
        batch_windows=options.batch,
        micro_windows=min(options.micro_batch, options.batch),
        lr=options.lr or {"muon": 5e-3, "adamw": 2e-5}[optimizer],
        optimizer=optimizer,
        seed=options.seed,
        precision=options.precision,
        pretrain_steps=options.pretrain_steps,
        distill_from=options.distill_from or 0.0,
    )


def _vocabulary(options: Namespace, data: Dataset) -> Vocabulary:
    """The tokenizer that all named checkpoints share; if none is named, one trained on the text."""
    from s2d_trt.training import corpus
    from s2d_trt.training.checkpoint import Vocabulary

    named = [path for path in (options.from_target, options.teacher, options.tokenizer, *options.target) if path]
    if not named:
        if data.kind != "text":
            raise OptionError(f"{data.kind} need a model's tokenizer; give --from-target, --teacher or --tokenizer")
        return Vocabulary.trained(corpus.train_tokenizer(map(corpus.read_text, data.files.train), options.vocab_size))
    vocabulary = Vocabulary.load(named[0], options.chat_template)
    ours, *others = [tokenizer_fingerprint(folder / "tokenizer.json", CheckpointError) for folder in named]
    for folder, theirs in zip(named[1:], others, strict=True):
        if ours != theirs:
            raise TokenizerMismatchError(
                f"the tokenizers of {named[0]} ({ours[:12]}) and {folder} ({theirs[:12]}) differ;"
                " a draft and its targets share one"
            )
    return vocabulary


def _model(options: Namespace, vocabulary: Vocabulary, teacher: PreTrainedModel | None) -> PreTrainedModel:
    from s2d_trt.training import checkpoint
    from s2d_trt.training.model import new_model

    if options.from_target:
        model = checkpoint.load(options.from_target, options.layers)
        longest = model.config.max_position_embeddings
        if options.seq_length > longest:
            raise OptionError(f"--seq-length {options.seq_length} is beyond the target's {longest} positions; lower it")
    else:
        rows = vocabulary.size if teacher is None else int(teacher.config.vocab_size)
        sizes = {name: getattr(options, name) or default for name, default in SIZES.items()}
        spec = ModelSpec.llama(layers=options.layers, vocab=rows, tied=True, **sizes)
        check_memory(TRAINING_BYTES * spec.parameters, f"training {spec.parameters:,} numbers")
        model = new_model(spec, options.seq_length, options.exits, options.seed, vocabulary)
    if vocabulary.size > model.config.vocab_size:
        raise OptionError(
            f"the tokenizer has ids up to {vocabulary.size - 1}, the model {model.config.vocab_size} rows; mend either"
        )
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def _card(options: Namespace, text: Text, result: Evaluation | None) -> str:
    from s2d_trt.training import evaluate

    begun = f", begun as the first {options.layers} layers of {options.from_target.name}" if options.from_target else ""
    report = "Nothing was held out."
    if result is not None:
        report = (
            f"Held out ({result.positions:,} positions):\n\n{evaluate.table(result)}\n\n![held-out figures](report.svg)"
        )
    return (
        f"# {options.out.name}\n\n"
        f"Trained by `{PROG}` for {options.steps} steps of {options.batch * options.seq_length:,} tokens"
        f" on {len(text.train):,} tokens{begun}.\n\n{report}\n"
    )


if __name__ == "__main__":
    run_command(PROG, main)
