"""Write a model repository for Triton Inference Server.

One model of Triton's Python backend loads the draft once and serves all targets: a request names one of them with the
input `target`, the first is the default. Requests step together, steps are streamed, and a client that leaves ends its
text.

  python -m runtime.embedding.triton --target target-17m --target target-6m --draft draft --out repo
  tritonserver --model-repository repo
  curl -N localhost:8000/v2/models/s2d/generate_stream -d '{"text_input": "import os", "stream": true}'

The model runs in the environment of the `python3` that is first on PATH; the runtime must be installed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.backends.placement import Device
from runtime.commands.arguments import NO_DRAFT
from runtime.embedding.triton.repository import parameters_of, write_repository
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.embedding.triton"


def main(argv: Sequence[str]) -> None:
    """Check the bundles' places and write."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", action="append", required=True, help="target bundle; may be repeated")
    parser.add_argument("--draft", default="draft", help="draft bundle, or none: n-gram lookup alone (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="model repository to write to")
    parser.add_argument("--name", default="s2d", help="of the model (%(default)s)")
    parser.add_argument("--sequences", type=positive_int, default=8, help="texts that step together (%(default)s)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: the physical cores)")
    parser.add_argument("--device", type=Device.parse, help="cpu, cuda or cuda:N (default: what the bundle is for)")
    arguments = parser.parse_args(argv)
    targets = [find_bundle(target) for target in arguments.target]
    names = [target.resolve().stem for target in targets]
    if len(set(names)) < len(names):
        raise OptionError(
            f"two targets are named {max(names, key=names.count)}; serve one of them, or rename its bundle"
        )
    draft = None if arguments.draft == NO_DRAFT else find_bundle(arguments.draft)
    device = str(arguments.device) if arguments.device else None
    write_repository(
        arguments.out, arguments.name, parameters_of(targets, draft, arguments.sequences, arguments.threads, device)
    )
    print(f"wrote    {arguments.out / arguments.name}: {', '.join(names)}")
    print(f"next     tritonserver --model-repository {arguments.out}")


if __name__ == "__main__":
    run_command(PROG, main)
