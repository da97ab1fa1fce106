"""Compile a draft of any shape with random weights and print its size, time and memory.

The default shape is that of Llama-7B's first 12 layers. Weights and plans are written to a folder in --scratch, which
needs room for five times the weights, and removed at the end.

examples:
  python -m tests.benchmarks.compile --scratch /tmp                      12 layers, exits 6, 9 and 12, fp16
  python -m tests.benchmarks.compile --scratch /tmp --weights int4
  python -m tests.benchmarks.compile --scratch /tmp --hidden 2048 --heads 16 --kv-heads 16 --ffn 5632
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from export.checkpoint import Checkpoint
from export.encoding import QUANTIZED_FORMATS, Encoding
from export.layout import BHSD
from export.options import add_plan_options, read_plan_options
from export.pipeline import BuildRequest, build, describe
from export.precision import FP16, PRECISIONS
from export.tensorrt.isolation import peak_memory
from s2d_trt.cli import ArgumentParser, check_exits, comma_ints, positive_int, run_command
from tests.benchmarks.checkpoint import add_shape_options, read_shape, write_random_checkpoint

PROG = "python -m tests.benchmarks.compile"


def main(argv: Sequence[str]) -> None:
    """Parse ``argv``, write a checkpoint, then build and compile it."""
    parser = ArgumentParser(__doc__ or "", PROG)
    add_shape_options(parser, layers=12)
    parser.add_argument("--max-length", type=positive_int, default=2048, metavar="N", help="default: %(default)s")
    parser.add_argument("--exits", type=comma_ints, default=(6, 9, 12), metavar="N,N,...", help="default: 6,9,12")
    parser.add_argument("--precision", choices=list(PRECISIONS), default=FP16.name, help="default: %(default)s")
    parser.add_argument("--lanes", type=positive_int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--weights", choices=QUANTIZED_FORMATS, help="quantise the linear layers")
    add_plan_options(parser)
    options = parser.parse_args(argv)
    plans = read_plan_options(options)
    exits = check_exits(options.exits, options.layers)
    spec = read_shape(options)
    with tempfile.TemporaryDirectory(prefix="s2d-compile-", dir=options.scratch) as scratch:
        began = time.perf_counter()
        source = Path(scratch) / "draft"
        source.mkdir()
        size = write_random_checkpoint(source, spec, exits, options.max_length)
        print(f"random   {size / 2**30:.2f} GiB of fp16 weights in {time.perf_counter() - began:.0f} s")
        checkpoint = Checkpoint.open(source)
        print(describe(checkpoint))
        encoding = Encoding(PRECISIONS[options.precision], options.weights or options.precision)
        request = BuildRequest(
            "draft", source, Path(scratch) / "draft.engine", exits,
            parity=False, layout=BHSD.name, encoding=encoding, plans=plans, lanes=tuple(sorted({1, options.lanes})),
        )  # fmt: skip
        manifest = build(request, checkpoint)
        on_disk = sum(plan.bytes for plan in manifest.plans)
        on_device = sum(plan.memory_bytes for plan in manifest.plans)
        print(f"total    {on_disk / 2**30:.2f} GiB of plans, {on_device / 2**30:.2f} GiB of weights on the device")
        print(f"memory   {peak_memory() / 2**20:.0f} MiB peak outside TensorRT")


if __name__ == "__main__":
    run_command(PROG, main)
