"""A checkpoint of any Llama shape, written shard by shard: of random weights, or of holes that take no disk."""

from __future__ import annotations

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
from s2d_trt.spec import ModelSpec

DEVIATION = 0.02
"""Of the weights, as Llama's own initialisation has it."""


def write_random_checkpoint(directory: Path, spec: ModelSpec, exits: tuple[int, ...], max_length: int) -> int:
    """Write config, tokenizer and float16 weights, one tensor a shard, into a directory; bytes of the weights."""
    rng = np.random.default_rng(0)

    def write(path: Path, name: str, shape: tuple[int, ...]) -> None:
        save_file({name: _random(rng, shape).astype(np.float16)}, path)

    return _write_checkpoint(directory, spec, exits, max_length, write)


def write_sparse_checkpoint(directory: Path, spec: ModelSpec, max_length: int) -> int:
    """As ``write_random_checkpoint``, of zeros in bfloat16 that are holes in their files."""

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
    """The tokenizer has a word for every id and is good for nothing else."""
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
