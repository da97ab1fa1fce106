"""Build the engine bundle of a sorted draft from its Hugging Face checkpoint.

Each segment between two exits becomes one ONNX graph, the head that the exits share another; all of them read one
weight file. The graphs are compared with the checkpoint in PyTorch, where that is installed, before anything is
published: a build that fails leaves an older bundle as it was.

examples:
  python -m export.build                              the demo draft, with the exits it was trained for
  python -m export.build --exits 6,12                 leave one of its exits out
  python -m export.build --precision int8             rows and weights in integers: two to three times as fast on a CPU
  python -m export.build --exits 6,9,12 --backend tensorrt    compiled plans for a GPU; none is needed to build them
  python -m export.build --checkpoint ~/my-draft --out engines/my-draft.engine --max-length 4096
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.bundle import check_destination
from export.checkpoint import Checkpoint, check_tokenizer
from export.graph import MAX_HEAD_TOP_K
from export.options import add_build_options, read_form, read_lanes
from export.pipeline import TOKENIZER, BuildRequest, build, describe
from export.vocabulary import frequent_tokens
from s2d_trt.cli import ArgumentParser, check_exits, comma_ints, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m export.build"


def choose_exits(requested: tuple[int, ...] | None, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The exits to build: those asked for, where the checkpoint was trained for them; else the recorded ones.

    Raises:
        OptionError: none are known, or they are not increasing, beyond the layers, or not trained.
    """
    if requested is None:
        if not checkpoint.exits:
            raise OptionError(
                f"{checkpoint.directory} records no exits in its config.json; give those it was trained for, "
                "like --exits 6,9,12"
            )
        return checkpoint.exits
    exits = check_exits(requested, checkpoint.spec.num_hidden_layers)
    untrained = sorted(set(exits) - set(checkpoint.exits))
    if checkpoint.exits and untrained:
        raise OptionError(
            f"exit {untrained[0]} was not trained: {checkpoint.directory} has exits "
            f"{','.join(map(str, checkpoint.exits))}; choose among them"
        )
    return exits


def choose_tokens(count: int | None, text: Path | None, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The ids that the head answers with; none where it answers with all.

    Raises:
        OptionError: one option without the other, or a number that makes no sense.
    """
    if count is None and text is None:
        return ()
    if count is None or text is None:
        raise OptionError("--head-tokens N and --calibration PATH belong together; give both or neither")
    if not MAX_HEAD_TOP_K <= count < checkpoint.spec.vocab_size:
        raise OptionError(
            f"--head-tokens {count} must be at least {MAX_HEAD_TOP_K} and below the vocabulary of"
            f" {checkpoint.spec.vocab_size}"
        )
    tokenizer = checkpoint.directory / TOKENIZER
    check_tokenizer(tokenizer, checkpoint.spec)
    return frequent_tokens(tokenizer, text, count, checkpoint.config.eos_token_ids)


def main(argv: Sequence[str]) -> None:
    """Parse ``argv`` and build."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument(
        "--exits", type=comma_ints, metavar="N,N,...", help="layers after which the draft can answer (default: trained)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("engines/demo/draft"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: engines/draft.engine; draft.trt.engine for tensorrt, draft.int8.engine for int8",
    )
    parser.add_argument(
        "--head-tokens",
        type=positive_int,
        metavar="N",
        help="draft only the N tokens that --calibration uses most: cheaper where the vocabulary is large",
    )
    parser.add_argument("--calibration", type=Path, metavar="PATH", help="text to count tokens in, a file or a folder")
    add_build_options(parser)
    options = parser.parse_args(argv)
    layout, encoding, plans = read_form(options)
    form = "trt." if options.backend == "tensorrt" else "int8." if encoding.precision.integer_rows else ""
    out = options.out or Path(f"engines/draft.{form}engine")
    checkpoint = Checkpoint.open(options.checkpoint)
    exits = choose_exits(options.exits, checkpoint)
    check_destination(out)
    tokens = choose_tokens(options.head_tokens, options.calibration, checkpoint)
    print(f"{describe(checkpoint)}, exits {','.join(map(str, exits))}")
    if not checkpoint.exits:
        print("note     the checkpoint records no exits; it is assumed to be trained for these")
    if tokens:
        print(
            f"head     {len(tokens)} of {checkpoint.spec.vocab_size} tokens, the most frequent of {options.calibration}"
        )
    build(
        BuildRequest(
            "draft",
            options.checkpoint,
            out,
            exits,
            max_length=options.max_length,
            parity=options.parity,
            layout=layout,
            encoding=encoding,
            plans=plans,
            lanes=read_lanes(options),
            head_tokens=tokens,
        ),
        checkpoint,
    )
    suffix = {"trt.": " --backend tensorrt", "int8.": " --precision int8"}.get(form, "")
    print(f"next     python -m export.target --checkpoint DIR --out engines/NAME.engine{suffix}")
    print(f"then     python -m runtime.run --draft {out} --target NAME --prompt 'TEXT'")


if __name__ == "__main__":
    run_command(PROG, main)
