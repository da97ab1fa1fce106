"""Compile a draft of any shape with random weights, and print what it took; the defaults are Llama-7B's first layers.

Weights and plans are written below --scratch and removed again: it needs room for five times the weights.

examples:
  python -m export.benchmarks.compile --scratch /tmp                      12 layers, exits 6, 9 and 12, fp16
  python -m export.benchmarks.compile --scratch /tmp --weights int4
  python -m export.benchmarks.compile --scratch /tmp --hidden 2048 --heads 16 --kv-heads 16 --ffn 5632
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from export.benchmarks.checkpoint import write_random_checkpoint
from export.builder import BuildRequest, build, describe
from export.checkpoint import Checkpoint
from export.encoding import QUANTIZED_FORMATS, Encoding
from export.isolation import peak_memory
from export.layout import BHSD
from export.options import add_plan_options, read_plan_options
from export.precision import FP16, PRECISIONS
from s2d_trt.cli import ArgumentParser, check_exits, comma_ints, positive_int, run_command
from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec

PROG = "python -m export.benchmarks.compile"


def main(argv: Sequence[str]) -> None:
    """Parse ``argv``, write a checkpoint, build and compile it."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--scratch", type=Path, required=True, metavar="DIR", help="a disk with room")
    for name, size in (("hidden", 4096), ("layers", 12), ("heads", 32), ("kv-heads", 32), ("ffn", 11008)):
        parser.add_argument(f"--{name}", type=positive_int, default=size, metavar="N", help="default: %(default)s")
    parser.add_argument("--vocab", type=positive_int, default=32000, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-length", type=positive_int, default=2048, metavar="N", help="default: %(default)s")
    parser.add_argument("--exits", type=comma_ints, default=(6, 9, 12), metavar="N,N,...", help="default: 6,9,12")
    parser.add_argument("--precision", choices=list(PRECISIONS), default=FP16.name, help="default: %(default)s")
    parser.add_argument("--weights", choices=QUANTIZED_FORMATS, help="quantise the linear layers")
    add_plan_options(parser)
    options = parser.parse_args(argv)
    plans = read_plan_options(options)
    exits = check_exits(options.exits, options.layers)
    if not options.scratch.is_dir():
        raise OptionError(f"--scratch {options.scratch} is no directory; name one on a disk with room")
    if options.hidden % (2 * options.heads) or options.heads % options.kv_heads:
        raise OptionError("--hidden must be an even multiple of --heads, and --heads a multiple of --kv-heads")
    spec = ModelSpec(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.hidden // options.heads,
        intermediate_size=options.ffn,
        vocab_size=options.vocab,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )
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
            parity=False, layout=BHSD.name, encoding=encoding, plans=plans,
        )  # fmt: skip
        manifest = build(request, checkpoint)
        on_disk = sum(plan.bytes for plan in manifest.plans)
        on_device = sum(plan.memory_bytes for plan in manifest.plans)
        print(f"total    {on_disk / 2**30:.2f} GiB of plans, {on_device / 2**30:.2f} GiB of weights on the device")
        print(f"memory   {peak_memory() / 2**20:.0f} MiB at most outside TensorRT")


if __name__ == "__main__":
    run_command(PROG, main)
