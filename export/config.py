"""Reading ``config.json`` and ``generation_config.json``: what matters is checked, what is not known is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from export.rotary import Rotary
from s2d_trt.errors import CheckpointError
from s2d_trt.families import FAMILIES, SCALINGS, Family, supported
from s2d_trt.reading import read_object
from s2d_trt.spec import ModelSpec

MOST, LARGEST = 2**27, 1e12
"""Of a whole number and of any number in a config; models have a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the configs of a checkpoint say.

    ``max_length`` is how many positions the model is good for, ``window`` how far its attention reaches back (None: all
    the way).
    """

    spec: ModelSpec
    rotary: Rotary
    exits: tuple[int, ...]
    max_length: int
    window: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @classmethod
    def read(cls, directory: Path) -> Config:
        """Read both files of a checkpoint; the second one need not be there.

        Raises:
            CheckpointError: a file or field is missing, damaged, contradictory or not supported.
        """
        fields = Fields(read_json(directory / "config.json"), directory / "config.json")
        generation_path = directory / "generation_config.json"
        generation = Fields(read_json(generation_path) if generation_path.is_file() else {}, generation_path)
        family = _read_family(fields)
        spec, rotary = _read_spec(fields, family), _read_rotary(fields)
        eos = (*generation.token_ids("eos_token_id", spec), *fields.token_ids("eos_token_id", spec))
        bos = (*generation.token_ids("bos_token_id", spec), *fields.token_ids("bos_token_id", spec))
        return cls(
            spec=spec,
            rotary=rotary,
            exits=_read_exits(fields, spec),
            max_length=min(MOST, rotary.reach(fields.positive("max_position_embeddings"))),
            window=_read_window(fields, family),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=tuple(dict.fromkeys(eos)),
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint.

    Raises:
        CheckpointError: no such file, or no JSON object in it.
    """
    refuse_foreign_link(path)
    return read_object(path, CheckpointError, "give --checkpoint a complete Hugging Face directory")


def refuse_foreign_link(path: Path) -> None:
    """Refuse a link, unless it leads to a file beside it or from a Hugging Face snapshot to that cache's blobs.

    Raises:
        CheckpointError: a bundle would hold a file of this machine that is no part of the checkpoint.
    """
    home, real = path.parent.resolve(), path.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, blobs):
        raise CheckpointError(f"{path} is a link out of its directory, to {real}; copy the file itself there")


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object whose fields are read with their type checked."""

    data: Mapping[str, Any]
    path: Path

    def value(self, name: str, default: object = None) -> Any:
        """A field, or ``default`` where it is absent or null."""
        found = self.data.get(name)
        return default if found is None else found

    def positive(self, name: str, default: int | None = None, most: int = MOST) -> int:
        """A whole number from 1 to ``most``. Raises CheckpointError."""
        value = self.value(name, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no {name}; take the config.json that belongs to the weights")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise CheckpointError(f"{self.path}: {name} is {value!r:.40}; it must be a whole number from 1 to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0. Raises CheckpointError."""
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            raise CheckpointError(
                f"{self.path}: {name} is {value!r:.40}; it must be a number above 0, up to {LARGEST:g}"
            )
        return float(value)

    def token_ids(self, name: str, spec: ModelSpec) -> tuple[int, ...]:
        """One token id or a list of them. Raises CheckpointError."""
        value = self.value(name, [])
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < spec.vocab_size:
                raise CheckpointError(
                    f"{self.path}: {name} is {value!r}; it must be token ids below vocab_size {spec.vocab_size}"
                )
        return tuple(ids)

    def refuse(self, name: str, value: object, supported: str) -> CheckpointError:
        """The error for a value that is none of the ``supported``."""
        return CheckpointError(f"{self.path}: {name} is {value!r}; supported is {supported}")


def _read_family(fields: Fields) -> Family:
    model_type = fields.value("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise fields.refuse("model_type", model_type, supported())
    if fields.value("hidden_act", "silu") != "silu":
        raise fields.refuse("hidden_act", fields.value("hidden_act"), "'silu'")
    if fields.value("quantization_config"):
        raise CheckpointError(f"{fields.path} has a quantization_config; take the checkpoint that is not quantised")
    return family


def _read_spec(fields: Fields, family: Family) -> ModelSpec:
    hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    kv_heads = fields.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.refuse("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
    if fields.value("head_dim") is None and family.head_dim is None and hidden % heads:
        raise fields.refuse("hidden_size", hidden, f"a multiple of num_attention_heads {heads}, or head_dim given")
    head_dim = fields.positive("head_dim", family.head_dim or hidden // heads)
    if head_dim % 2:
        raise fields.refuse("head_dim", head_dim, "an even number, which rotary positions need")
    bias = bool(fields.value("attention_bias", False)) if family.qkv_bias is None else False
    spec = ModelSpec(
        hidden_size=hidden,
        num_hidden_layers=fields.positive("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.positive("intermediate_size"),
        vocab_size=fields.positive("vocab_size"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_read_rotary(fields).theta,
        tie_word_embeddings=bool(fields.value("tie_word_embeddings", False)),
        qkv_bias=bias or bool(family.qkv_bias),
        output_bias=bias,
        mlp_bias=bool(fields.value("mlp_bias", False)),
        qk_norm=family.qk_norm,
    )
    try:
        return msgspec.convert(asdict(spec), ModelSpec)
    except msgspec.ValidationError as cause:
        raise CheckpointError(
            f"{fields.path} is out of range ({cause}); take the one that belongs to the weights"
        ) from cause


def _read_rotary(fields: Fields) -> Rotary:
    """``rope_theta`` and ``rope_scaling`` (transformers 4), or both in ``rope_parameters`` (transformers 5)."""
    thetas = [fields.number("rope_theta")] if fields.value("rope_theta") is not None else []
    scaling = Rotary()
    for name in ("rope_parameters", "rope_scaling"):
        rope = fields.value(name, {})
        if not isinstance(rope, dict):
            raise fields.refuse(name, rope, "an object with rope_type and rope_theta")
        entries = Fields(rope, fields.path)
        found = _read_scaling(name, entries)
        scaling = found if found.kind != "default" else scaling
        if entries.value("rope_theta") is not None:
            thetas.append(entries.number("rope_theta"))
    partial = fields.value("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise fields.refuse("partial_rotary_factor", partial, "1.0")
    if len(set(thetas)) > 1:
        raise CheckpointError(
            f"{fields.path}: rope_theta is given as {thetas[0]:g} and {thetas[1]:g}; keep the one it was trained with"
        )
    theta = thetas[0] if thetas else Rotary().theta
    return Rotary(theta, scaling.kind, scaling.factor, scaling.low_factor, scaling.high_factor, scaling.original_length)


def _read_scaling(name: str, rope: Fields) -> Rotary:
    kind = rope.value("rope_type", rope.value("type", "default"))
    if kind not in SCALINGS:
        # Dynamic scaling changes the angles of positions that are already cached as the text grows.
        raise rope.refuse(f"{name}.rope_type", kind, ", ".join(map(repr, SCALINGS)))
    if kind == "default":
        return Rotary()
    if kind == "linear":
        return Rotary(kind=kind, factor=rope.number("factor"))
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.refuse(f"{name}.low_freq_factor", low, f"a number below high_freq_factor {high:g}")
    length = rope.positive("original_max_position_embeddings")
    return Rotary(kind=kind, factor=rope.number("factor"), low_factor=low, high_factor=high, original_length=length)


def _read_window(fields: Fields, family: Family) -> int | None:
    if family.windowed is None or (family.windowed and not fields.value(family.windowed, False)):
        return None
    if "sliding_window" not in fields.data:
        return family.window
    return None if fields.data["sliding_window"] is None else fields.positive("sliding_window")


def _read_exits(fields: Fields, spec: ModelSpec) -> tuple[int, ...]:
    exits = fields.value("exits", [])
    if not isinstance(exits, list) or any(isinstance(e, bool) or not isinstance(e, int) for e in exits):
        raise fields.refuse("exits", exits, "a list of layer counts like [6, 9, 12]")
    if exits != sorted(set(exits)) or any(not 1 <= e <= spec.num_hidden_layers for e in exits):
        raise fields.refuse("exits", exits, f"increasing layer counts up to num_hidden_layers {spec.num_hidden_layers}")
    return tuple(exits)
