"""Enlarge a Llama checkpoint to another shape while keeping its function, to measure cost at the size of a real model.

The tensors of the old model stand in the top left corners of larger ones, filled up with a tiny random residue; what
is added contributes next to nothing, so a grown target and a grown draft accept as the trained pair does, at the cost
of the large shape. RMS norms average over more channels, most of them empty, so their weights are scaled down by the
square root of the ratio. Query heads stay with their key head. No number is zero or subnormal: some chips run zeros
faster than data.

  python -m tests.benchmarks.grow --checkpoint engines/demo/target-17m --out big/target \\
      --hidden 1024 --layers 40 --heads 32 --kv-heads 8 --ffn 2816
  python -m tests.benchmarks.grow --checkpoint engines/demo/draft --out big/draft --hidden 512 --heads 16 --ffn 1408

Sizes that are not given stay as they are; the size of a head always does. Added layers come last, so a draft keeps its
exits. Tensors are written one at a time.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2d_trt.cli import ArgumentParser, byte_size, positive_int, run_command
from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.training import require_torch

if TYPE_CHECKING:
    import torch

PROG = "python -m tests.benchmarks.grow"
RESIDUE = 1e-4
"""Standard deviation of what is filled in, against the old tensor's own."""
SHARD_BYTES = 2**30
KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that growing changes; ``head_dim`` it does not."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    head_dim: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Sizes:
        """Those of a config.json. Raises CheckpointError where it is none of a Llama."""
        try:
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            return cls(
                config["num_hidden_layers"],
                hidden,
                heads,
                config.get("num_key_value_heads") or heads,
                config["intermediate_size"],
                config.get("head_dim") or hidden // heads,
                config["vocab_size"],
                bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError) as cause:
            raise CheckpointError(f"config.json lacks {cause}; take the one that belongs to the weights") from cause

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            for part, shape in {
                "input_layernorm": (self.hidden,),
                "self_attn.q_proj": (width, self.hidden),
                "self_attn.k_proj": (kv_width, self.hidden),
                "self_attn.v_proj": (kv_width, self.hidden),
                "self_attn.o_proj": (self.hidden, width),
                "post_attention_layernorm": (self.hidden,),
                "mlp.gate_proj": (self.ffn, self.hidden),
                "mlp.up_proj": (self.ffn, self.hidden),
                "mlp.down_proj": (self.hidden, self.ffn),
            }.items():
                found[f"model.layers.{layer}.{part}.weight"] = shape
        found["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocab, self.hidden)
        return found


def main(argv: Sequence[str]) -> None:
    """Parse ``argv`` and grow."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a Llama checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the grown one")
    for name, what in (
        ("layers", "layers"),
        ("hidden", "channels of the residual stream"),
        ("heads", "query heads"),
        ("kv-heads", "key/value heads"),
        ("ffn", "channels of the feed-forward"),
    ):
        parser.add_argument(f"--{name}", type=positive_int, metavar="N", help=f"{what} (default: as they are)")
    parser.add_argument("--seed", type=int, default=0, help="of the residue (%(default)s)")
    options = parser.parse_args(argv)
    require_torch()
    config = _read_config(options.checkpoint)
    old = Sizes.of(config)
    new = _grown_sizes(old, options)
    if options.out.exists():
        raise OptionError(f"--out {options.out} exists; name a new directory")
    _write(options.checkpoint, config, old, new, options.out, options.seed)


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise CheckpointError(f"{directory / 'config.json'} cannot be read ({cause}); name a checkpoint") from cause
    if not isinstance(config, dict) or config.get("model_type") != "llama":
        raise CheckpointError(f"{directory} holds no Llama model; only those can be grown")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise CheckpointError(f"{directory} has biases; only models without can be grown")
    return config


def _grown_sizes(old: Sizes, options: Namespace) -> Sizes:
    new = Sizes(
        options.layers or old.layers,
        options.hidden or old.hidden,
        options.heads or old.heads,
        options.kv_heads or old.kv_heads,
        options.ffn or old.ffn,
        old.head_dim,
        old.vocab,
        old.tied,
    )
    for name in ("layers", "hidden", "heads", "kv_heads", "ffn"):
        before, after = getattr(old, name), getattr(new, name)
        if after < before:
            raise OptionError(
                f"--{name.replace('_', '-')} {after} is below the checkpoint's {before}; it can only grow"
            )
    if new.hidden % new.heads:
        raise OptionError(f"--hidden {new.hidden} is no multiple of --heads {new.heads}, which transformers asks for")
    if new.heads % new.kv_heads or new.heads // new.kv_heads < old.heads // old.kv_heads:
        raise OptionError(
            f"{new.heads} query heads on {new.kv_heads} key heads cannot hold groups of {old.heads // old.kv_heads};"
            " choose --heads as a multiple of --kv-heads, and at least as large a one"
        )
    return new


def _write(source: Path, config: dict[str, Any], old: Sizes, new: Sizes, out: Path, seed: int) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from tqdm import tqdm

    files = _tensor_files(source)
    generator = torch.Generator().manual_seed(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    partial.chmod(0o755)
    try:
        places: dict[str, str] = {}
        shard: dict[str, torch.Tensor] = {}
        total = sum(2 * math.prod(shape) for shape in new.shapes().values())
        bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None)

        def flush() -> None:
            name = f"model-{len(set(places.values())):05}.safetensors"
            save_file(shard, partial / name, metadata={"format": "pt"})
            places.update(dict.fromkeys(shard, name))
            bar.update(sum(tensor.nbytes for tensor in shard.values()))
            shard.clear()

        for name, shape in new.shapes().items():
            before = None
            if name in files:
                try:
                    with safe_open(source / files[name], framework="pt") as stored:
                        before = stored.get_tensor(name).float()
                except (SafetensorError, OSError) as cause:
                    raise CheckpointError(f"{source / files[name]} cannot be read ({cause}); copy it again") from cause
            elif name in old.shapes():
                raise CheckpointError(f"{source} has no tensor {name}; copy the checkpoint again")
            shard[name] = _grown(name, before, shape, old, new, generator).bfloat16().contiguous()
            if sum(tensor.nbytes for tensor in shard.values()) >= SHARD_BYTES:
                flush()
        if shard:
            flush()
        bar.close()
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        changed = {
            "num_hidden_layers": new.layers,
            "hidden_size": new.hidden,
            "num_attention_heads": new.heads,
            "num_key_value_heads": new.kv_heads,
            "head_dim": new.head_dim,
            "intermediate_size": new.ffn,
            # The mean square is over more channels, nearly all of the added ones empty.
            "rms_norm_eps": config.get("rms_norm_eps", 1e-6) * old.hidden / new.hidden,
        }
        (partial / "config.json").write_text(json.dumps(config | changed, indent=1), encoding="utf-8")
        for name in KEPT:
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"wrote {out}: {total / 2e6:.0f}M parameters, {byte_size(total)}")


def _tensor_files(source: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    index = source / "model.safetensors.index.json"
    try:
        if index.is_file():
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        with safe_open(source / "model.safetensors", framework="pt") as stored:
            return dict.fromkeys(stored.keys(), "model.safetensors")
    except (SafetensorError, OSError, ValueError, KeyError) as cause:
        raise CheckpointError(f"the weights of {source} cannot be read ({cause}); copy the checkpoint again") from cause


def _grown(
    name: str,
    before: torch.Tensor | None,
    shape: tuple[int, ...],
    old: Sizes,
    new: Sizes,
    generator: torch.Generator,
) -> torch.Tensor:
    """A tensor of the grown model; ``before`` is the old one, None in an added layer."""
    import torch

    if len(shape) == 1:
        scale = math.sqrt(old.hidden / new.hidden)
        found = torch.full(shape, scale)
        if before is not None:
            found[: len(before)] = before * scale
        return found
    deviation = 0.02 if before is None else float(before.std())
    found = torch.randn(shape, generator=generator) * deviation * RESIDUE
    if before is None:
        # An added layer computes like any other; only what it writes back is next to nothing.
        return found if name.endswith(("o_proj.weight", "down_proj.weight")) else found / RESIDUE
    if name.endswith(("q_proj.weight", "o_proj.weight")):
        _place_heads(found, before, old, new, rows=name.endswith("q_proj.weight"))
    else:
        found[: before.shape[0], : before.shape[1]] = before
    return found


def _place_heads(found: torch.Tensor, before: torch.Tensor, old: Sizes, new: Sizes, rows: bool) -> None:
    """Query heads stay with their key head, whose group may have grown; ``rows`` are the heads' or the columns."""
    for head in range(old.heads):
        group, member = divmod(head, old.heads // old.kv_heads)
        target = group * (new.heads // new.kv_heads) + member
        source = slice(head * old.head_dim, (head + 1) * old.head_dim)
        place = slice(target * old.head_dim, (target + 1) * old.head_dim)
        if rows:
            found[place, : before.shape[1]] = before[source]
        else:
            found[: before.shape[0], place] = before[:, source]


if __name__ == "__main__":
    run_command(PROG, main)
