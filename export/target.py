"""Build the engine bundle of a target from its Hugging Face checkpoint.

The whole model becomes one ONNX graph over one weight file. It is compared with the checkpoint in PyTorch, where that
is installed, before anything is published: a build that fails leaves an older bundle as it was.

examples:
  python -m export.target --checkpoint engines/demo/target-17m --out engines/target-17m.engine
  python -m export.target --checkpoint ~/llama-1b --out engines/llama-1b.engine --max-length 4096
  python -m export.target --checkpoint ~/llama-7b --out engines/llama-7b.trt.engine --backend tensorrt --weights int8
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.bundle import check_destination
from export.checkpoint import Checkpoint
from export.options import add_build_options, read_form, read_lanes
from export.pipeline import BuildRequest, build, describe
from s2d_trt.cli import ArgumentParser, run_command

PROG = "python -m export.target"


def main(argv: Sequence[str]) -> None:
    """Parse ``argv`` and build."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a Hugging Face directory")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle, like engines/NAME.engine")
    add_build_options(parser)
    options = parser.parse_args(argv)
    layout, encoding, plans = read_form(options)
    checkpoint = Checkpoint.open(options.checkpoint)
    check_destination(options.out)
    print(describe(checkpoint))
    build(
        BuildRequest(
            "target",
            options.checkpoint,
            options.out,
            max_length=options.max_length,
            parity=options.parity,
            layout=layout,
            encoding=encoding,
            plans=plans,
            lanes=read_lanes(options),
        ),
        checkpoint,
    )
    print(f"next     python -m runtime.run --target {options.out} --prompt 'TEXT'")


if __name__ == "__main__":
    run_command(PROG, main)
