"""Train a Llama-architecture model with SoFT, so that each exit is a usable model.

Every step sums the next-token loss over the exits, each through the one final norm and head
(arXiv 2407.01955). With --teacher a share of the loss is distillation from a target's logits; the
draft then takes over the target's tokenizer and vocabulary. One exit, the last layer, trains a
plain model: that is how the demo targets were made.

  python -m s2d_trt.training.soft --data texts/ --exits 6,9,12 --out draft/
  python -m s2d_trt.training.soft --data texts/ --exits 6,9,12 --teacher target/ --out draft/
  python -m s2d_trt.training.soft --data texts/ --exits 12 --held-out "book-7*" --out target/

--out becomes a Hugging Face directory (config with the exits, bf16 weights, tokenizer, model card).
Next: python -m export.build --checkpoint draft/ --out engines/draft.engine

The run can be stopped at any time: the same command goes on from the last saved step.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2d_trt.cli import ArgumentParser, check_exits, comma_floats, comma_ints, positive_int, run_command
from s2d_trt.errors import CheckpointError, OptionError, TokenizerMismatchError
from s2d_trt.tokenizer import tokenizer_fingerprint
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from s2d_trt.training.checkpoint import Vocabulary
    from s2d_trt.training.corpus import TextFiles
    from s2d_trt.training.evaluate import Evaluation
    from s2d_trt.training.pipeline import Text

PROG = "python -m s2d_trt.training.soft"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__ or "", PROG)
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, help="folder of text files")
    data.add_argument("--suffix", default=".txt,.md,.py", help="file endings to read (default: %(default)s)")
    data.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="relative paths to leave out")
    data.add_argument("--held-out", action="append", default=[], metavar="GLOB", help="paths kept for evaluation only")
    data.add_argument("--tokenizer", type=Path, metavar="DIR", help="checkpoint whose tokenizer to use")
    data.add_argument("--vocab-size", type=positive_int, default=4096, help="else train one this large (%(default)s)")
    data.add_argument("--seq-length", type=positive_int, default=512, help="tokens in a window (%(default)s)")
    shape = parser.add_argument_group("model")
    shape.add_argument("--exits", type=comma_ints, required=True, help="layers after which a token may exit: 6,9,12")
    shape.add_argument("--layers", type=positive_int, help="number of layers (default: the last exit)")
    shape.add_argument("--hidden", type=positive_int, default=128, help="width (%(default)s)")
    shape.add_argument("--heads", type=positive_int, default=4, help="attention heads (%(default)s)")
    shape.add_argument("--kv-heads", type=positive_int, default=2, help="key/value heads (%(default)s)")
    shape.add_argument("--ffn", type=positive_int, default=352, help="feed-forward width (%(default)s)")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--exit-weights", type=comma_floats, help="weight of each exit's loss (default: all equal)")
    loss.add_argument("--teacher", type=Path, metavar="DIR", help="target checkpoint to distil from")
    loss.add_argument("--distill", type=float, default=0.7, help="share of distillation with --teacher (%(default)s)")
    loss.add_argument(
        "--distill-from", type=float, default=0.0, help="share of the steps before distillation begins (%(default)s)"
    )
    run = parser.add_argument_group("optimisation")
    run.add_argument("--steps", type=positive_int, default=1000, help="optimiser steps (%(default)s)")
    run.add_argument("--batch", type=positive_int, default=16, help="windows in a step (%(default)s)")
    run.add_argument("--micro-batch", type=positive_int, default=4, help="windows in a pass, accumulated (%(default)s)")
    run.add_argument("--lr", type=float, default=5e-3, help="peak learning rate (%(default)s)")
    run.add_argument("--seed", type=int, default=0, help="weights and data order (%(default)s)")
    run.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where native")
    run.add_argument("--no-compile", action="store_true", help="do not compile the layers (slower, no C++ compiler)")
    run.add_argument("--out", type=Path, required=True, help="directory to write the checkpoint to")
    run.add_argument("--state", type=Path, help="file that holds a stopped run (default: OUT.state)")
    run.add_argument("--save-every", type=positive_int, default=100, help="steps between saves (%(default)s)")
    return parser


def main(argv: Sequence[str]) -> None:
    """Train, evaluate on what is held out, and publish."""
    options = _parser().parse_args(argv)
    layers = options.layers or max(options.exits)
    exits = check_exits(options.exits, layers)
    _check(options, layers)

    # torch takes seconds to import: mistakes above and --help do not wait for it.
    require_torch()
    from s2d_trt.training import checkpoint, corpus
    from s2d_trt.training.model import Shape
    from s2d_trt.training.objective import Objective
    from s2d_trt.training.pipeline import Run, Text, make_checkpoint
    from s2d_trt.training.trainer import Recipe

    objective = Objective(options.exit_weights or (1.0,) * len(exits), options.distill if options.teacher else 0.0)
    recipe = Recipe(
        exits=exits,
        objective=objective,
        steps=options.steps,
        batch_windows=options.batch,
        micro_windows=min(options.micro_batch, options.batch),
        lr=options.lr,
        seed=options.seed,
        precision=options.precision,
        distill_from=options.distill_from,
    )
    files = corpus.TextFiles.scan(options.data, options.suffix.split(","), options.exclude, options.held_out)
    teacher = checkpoint.load(options.teacher) if options.teacher else None
    vocabulary = _vocabulary(options, files)
    text = Text.read(files, vocabulary)
    print(f"{len(files.train)} files, {len(text.train):,} tokens; {len(files.held_out)} files held out", flush=True)

    rows = vocabulary.size if teacher is None else int(teacher.config.vocab_size)
    if vocabulary.size > rows:
        raise OptionError(
            f"the tokenizer has ids up to {vocabulary.size - 1}, the teacher only {rows} rows; mend either"
        )
    shape = Shape(options.hidden, layers, options.heads, options.kv_heads, options.ffn, rows, options.seq_length)
    run = Run(
        shape,
        recipe,
        out=options.out,
        state=options.state or options.out.with_name(options.out.name + ".state"),
        compile_layers=not options.no_compile,
        save_every=options.save_every,
    )

    def card(_model: LlamaForCausalLM, result: Evaluation | None) -> str:
        return _card(options, text, result)

    make_checkpoint(run, text, card, teacher, {} if teacher is None else {options.teacher.name: teacher})


def _check(options: Namespace, layers: int) -> None:
    if max(options.exits) != layers:
        raise OptionError(f"the last exit {max(options.exits)} must be the last layer {layers}; add it to --exits")
    if options.lr <= 0:
        raise OptionError(f"--lr {options.lr} must be above 0")
    if not 0 <= options.distill_from <= 1:
        raise OptionError(f"--distill-from {options.distill_from} must lie between 0 and 1")
    if options.seed < 0:
        raise OptionError(f"--seed {options.seed} must not be negative")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise OptionError(f"{options.out} is not an empty folder; choose another --out or delete it")


def _vocabulary(options: Namespace, files: TextFiles) -> Vocabulary:
    """The tokenizer of --tokenizer or --teacher (they must be the same one), or else one trained on the text."""
    from s2d_trt.training import corpus
    from s2d_trt.training.checkpoint import Vocabulary

    if options.tokenizer and options.teacher:
        ours, theirs = (
            tokenizer_fingerprint(folder / "tokenizer.json", CheckpointError)
            for folder in (options.tokenizer, options.teacher)
        )
        if ours != theirs:
            raise TokenizerMismatchError(
                f"the tokenizers of {options.tokenizer} ({ours[:12]}) and {options.teacher} ({theirs[:12]}) differ;"
                " leave --tokenizer out"
            )
    if options.tokenizer or options.teacher:
        return Vocabulary.load(options.tokenizer or options.teacher)
    return Vocabulary.trained(corpus.train_tokenizer(map(corpus.read_text, files.train), options.vocab_size))


def _card(options: Namespace, text: Text, result: Evaluation | None) -> str:
    from s2d_trt.training import evaluate

    report = "No files were held out." if result is None else evaluate.table(result)
    return (
        f"# {options.out.name}\n\n"
        f"Trained by `{PROG}` for {options.steps} steps on {len(text.train):,} tokens.\n\n{report}\n"
    )


if __name__ == "__main__":
    run_command(PROG, main)
