"""Checkpoints of any Llama shape for measurements of the exporter: with random weights, or sparse files of zeros.

The options that name the shape are here too. Weights are written one tensor a file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from export.checkpoint import INDEX_FILE
from export.rotary import Float32Array
from export.tensors import checkpoint_shapes
from s2d_trt.cli import ArgumentParser, positive_int
from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec

DEVIATION = 0.02
"""Standard deviation of the random weights: that of Llama's initialisation."""


def add_shape_options(parser: ArgumentParser, layers: int) -> None:
    """Add ``--scratch`` and the options of a shape; their defaults are Llama-7B's sizes with ``layers`` layers."""
    parser.add_argument("--scratch", type=Path, required=True, metavar="DIR", help="a folder on a disk with room")
    sizes = {"hidden": 4096, "layers": layers, "heads": 32, "kv-heads": 32, "ffn": 11008, "vocab": 32000}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=positive_int, default=size, metavar="N", help="default: %(default)s")


def read_shape(options: argparse.Namespace) -> ModelSpec:
    """The model that the options describe.

    Raises:
        OptionError: the sizes do not fit each other, or there is no scratch directory.
    """
    if not options.scratch.is_dir():
        raise OptionError(f"--scratch {options.scratch} is no directory; name one on a disk with room")
    return ModelSpec.llama(
        hidden=options.hidden, layers=options.layers, heads=options.heads, kv_heads=options.kv_heads,
        ffn=options.ffn, vocab=options.vocab, tied=False,
    )  # fmt: skip


def write_random_checkpoint(directory: Path, spec: ModelSpec, exits: tuple[int, ...], max_length: int) -> int:
    """Write config, tokenizer and random float16 weights into a directory; returns the bytes of the weights."""
    rng = np.random.default_rng(0)

    def write(path: Path, name: str, shape: tuple[int, ...]) -> None:
        save_file({name: _random(rng, shape).astype(np.float16)}, path)

    return _write_checkpoint(directory, spec, exits, max_length, write)


def write_sparse_checkpoint(directory: Path, spec: ModelSpec, max_length: int) -> int:
    """Write bfloat16 zeros as sparse files, which take no disk space; else as ``write_random_checkpoint``."""

    def write(path: Path, name: str, shape: tuple[int, ...]) -> None:
        size = 2 * math.prod(shape)
        header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(file.tell() + size)

    return _write_checkpoint(directory, spec, (), max_length, write)


def _write_checkpoint(
    directory: Path,
    spec: ModelSpec,
    exits: tuple[int, ...],
    max_length: int,
    write: Callable[[Path, str, tuple[int, ...]], None],
) -> int:
    """Write the files around the weights; the tokenizer has one word for every id, so it encodes no real text."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": max_length,
        "exits": list(exits),
        **{name: getattr(spec, name) for name in ModelSpec.__dataclass_fields__},
    }
    (directory / "config.json").write_text(json.dumps(config))
    words = {f"w{index}": index for index in range(spec.vocab_size)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(directory / "tokenizer.json"))
    files = {}
    for index, (name, shape) in enumerate(checkpoint_shapes(spec).items()):
        files[name] = f"model-{index:05}.safetensors"
        write(directory / files[name], name, shape)
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": files}))
    return 2 * sum(math.prod(shape) for shape in checkpoint_shapes(spec).values())


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32Array:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(DEVIATION)
