"""Enlarge a Llama checkpoint to another shape and keep its function, to measure the cost of a large model.

Each old tensor fills the top left corner of the larger one; the rest is small random noise. What is added contributes
almost nothing to the result, so a grown target and a grown draft accept as many tokens as the trained pair, at the cost
of the large shape. RMS norms average over more channels, most of them nearly zero, so their weights are scaled by the
square root of old width over new width. Each query head stays with its key head. No number is zero or subnormal,
because some processors compute faster with zeros.

  python -m tests.benchmarks.grow --checkpoint engines/demo/target-17m --out big/target \\
      --hidden 1024 --layers 40 --heads 32 --kv-heads 8 --ffn 2816
  python -m tests.benchmarks.grow --checkpoint engines/demo/draft --out big/draft --hidden 512 --heads 16 --ffn 1408

Sizes that are not given stay as they are; the size of a head never changes. Layers are added at the end, so a draft
keeps its exits. Tensors are read one at a time and written in files of about 1 GiB.
"""

from __future__ import annotations

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from export.checkpoint import INDEX_FILE, Checkpoint
from export.config import read_json
from export.tensors import checkpoint_shapes
from s2d_trt.cli import MOST, ArgumentParser, byte_size, positive_int, run_command
from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.files import publishing_directory
from s2d_trt.spec import ModelSpec
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    import torch

PROG = "python -m tests.benchmarks.grow"
NOISE = 1e-4
"""Standard deviation of the added numbers, relative to that of the old tensor."""
SHARD_BYTES = 2**30
COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
SIZES = {
    "layers": ("num_hidden_layers", "layers"),
    "hidden": ("hidden_size", "channels of the hidden states"),
    "heads": ("num_attention_heads", "query heads"),
    "kv-heads": ("num_key_value_heads", "key/value heads"),
    "ffn": ("intermediate_size", "channels inside the feed-forward layers"),
}
"""Option: the field of ``ModelSpec`` and of config.json that it sets, and what it counts."""


def main(argv: Sequence[str]) -> None:
    """Parse ``argv`` and write the grown checkpoint."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a Llama checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the grown one")
    for name, (field, what) in SIZES.items():
        parser.add_argument(
            f"--{name}", dest=field, type=positive_int, metavar="N", help=f"{what} (default: as before)"
        )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    options = parser.parse_args(argv)
    if not 0 <= options.seed <= MOST:
        raise OptionError(f"--seed {options.seed} must lie between 0 and {MOST}")
    require_torch()
    source = Checkpoint.open(options.checkpoint)
    config = _read_llama_config(source)
    new = _grown_spec(source.spec, options)
    source.check_tensors(checkpoint_shapes(source.spec))
    if options.out.exists():
        raise OptionError(f"--out {options.out} exists; name a new directory")
    _write(source, config, new, options.out, options.seed)


def _read_llama_config(source: Checkpoint) -> dict[str, Any]:
    config = read_json(source.directory / "config.json")
    if config["model_type"] != "llama":
        raise CheckpointError(f"{source.directory} holds no Llama model; only those can be grown")
    if source.spec.qkv_bias or source.spec.mlp_bias:
        raise CheckpointError(f"{source.directory} has biases; only models without can be grown")
    return config


def _grown_spec(old: ModelSpec, options: Namespace) -> ModelSpec:
    sizes: dict[str, Any] = {field: getattr(options, field) or getattr(old, field) for field, _ in SIZES.values()}
    new = replace(old, **sizes, rms_norm_eps=old.rms_norm_eps * old.hidden_size / sizes["hidden_size"])
    for name, (field, _) in SIZES.items():
        before, after = getattr(old, field), getattr(new, field)
        if after < before:
            raise OptionError(f"--{name} {after} is below the checkpoint's {before}; it can only grow")
    try:
        msgspec.convert(asdict(new), ModelSpec)
    except msgspec.ValidationError as cause:
        raise OptionError(f"no model has such sizes ({cause}); choose smaller ones") from cause
    heads, kv_heads = new.num_attention_heads, new.num_key_value_heads
    if new.hidden_size % heads:
        raise OptionError(f"--hidden {new.hidden_size} is no multiple of --heads {heads}, which transformers asks for")
    if heads % kv_heads or _group(new) < _group(old):
        raise OptionError(
            f"{heads} query heads on {kv_heads} key heads cannot hold groups of {_group(old)};"
            " choose --heads as a multiple of --kv-heads, and at least as large a one"
        )
    return new


def _group(spec: ModelSpec) -> int:
    """Query heads that share a key head."""
    return spec.num_attention_heads // spec.num_key_value_heads


def _write(source: Checkpoint, config: dict[str, Any], new: ModelSpec, out: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    shapes, old_shapes = checkpoint_shapes(new), checkpoint_shapes(source.spec)
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    files: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    with (
        publishing_directory(out) as scratch,
        tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar,
    ):
        for name, shape in shapes.items():
            before = torch.from_numpy(source.read(name)) if name in old_shapes else None
            shard[name] = _grown(name, before, shape, source.spec, new, generator).bfloat16().contiguous()
            size = sum(tensor.nbytes for tensor in shard.values())
            if size >= SHARD_BYTES or len(files) + len(shard) == len(shapes):
                file = f"model-{len(set(files.values())):05}.safetensors"
                save_file(shard, scratch / file, metadata={"format": "pt"})
                files |= dict.fromkeys(shard, file)
                bar.update(size)
                shard.clear()
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (scratch / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
        changed = ("head_dim", "rms_norm_eps", *(field for field, _ in SIZES.values()))
        config |= {field: getattr(new, field) for field in changed}
        (scratch / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        for name in COPIED:
            if (source.directory / name).is_file():
                shutil.copyfile(source.directory / name, scratch / name)
    print(f"wrote {out}: {total / 2e6:.0f}M parameters, {byte_size(total)}")


def _grown(
    name: str,
    before: torch.Tensor | None,
    shape: tuple[int, ...],
    old: ModelSpec,
    new: ModelSpec,
    generator: torch.Generator,
) -> torch.Tensor:
    """A tensor of the grown model, float32; ``before`` is the old one, None in an added layer."""
    import torch

    if len(shape) == 1:
        scale = math.sqrt(old.hidden_size / new.hidden_size)
        norm = torch.full(shape, scale)
        if before is not None:
            norm[: len(before)] = before * scale
        return norm
    deviation = 0.02 if before is None else float(before.std())
    grown = torch.randn(shape, generator=generator) * deviation * NOISE
    if before is None:
        # An added layer computes as any other, but adds almost nothing to the hidden states.
        return grown if name.endswith(("o_proj.weight", "down_proj.weight")) else grown / NOISE
    if name.endswith(("q_proj.weight", "o_proj.weight")):
        _copy_heads(grown, before, old, new, as_rows=name.endswith("q_proj.weight"))
    else:
        grown[: before.shape[0], : before.shape[1]] = before
    return grown


def _copy_heads(grown: torch.Tensor, before: torch.Tensor, old: ModelSpec, new: ModelSpec, as_rows: bool) -> None:
    """Copy each query head to the same key head's group; heads are rows of ``q_proj`` and columns of ``o_proj``."""
    for head in range(old.num_attention_heads):
        group, member = divmod(head, _group(old))
        target = group * _group(new) + member
        source = slice(head * old.head_dim, (head + 1) * old.head_dim)
        destination = slice(target * old.head_dim, (target + 1) * old.head_dim)
        if as_rows:
            grown[destination, : before.shape[1]] = before[source]
        else:
            grown[: before.shape[0], destination] = before[:, source]


if __name__ == "__main__":
    run_command(PROG, main)
