"""The options by which the benchmarks take a Llama shape and a place for large files."""

from __future__ import annotations

import argparse
from pathlib import Path

from s2d_trt.cli import ArgumentParser, positive_int
from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec


def add_shape_options(parser: ArgumentParser, layers: int) -> None:
    """Llama-7B's sizes, with so many ``layers``, unless the user says otherwise."""
    parser.add_argument("--scratch", type=Path, required=True, metavar="DIR", help="a disk with room")
    sizes = {"hidden": 4096, "layers": layers, "heads": 32, "kv-heads": 32, "ffn": 11008, "vocab": 32000}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=positive_int, default=size, metavar="N", help="default: %(default)s")


def read_shape(options: argparse.Namespace) -> ModelSpec:
    """The model that was asked for.

    Raises:
        OptionError: the sizes do not fit each other, or there is no scratch directory.
    """
    if not options.scratch.is_dir():
        raise OptionError(f"--scratch {options.scratch} is no directory; name one on a disk with room")
    if options.hidden % (2 * options.heads) or options.heads % options.kv_heads:
        raise OptionError("--hidden must be an even multiple of --heads, and --heads a multiple of --kv-heads")
    return ModelSpec(
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
