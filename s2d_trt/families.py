"""The supported model families, and how each differs from a plain Llama."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """What a ``model_type`` implies for fields that its config does not hold.

    ``qkv_bias`` None means that the config's ``attention_bias`` decides, for the output projection too. ``windowed``
    names the config field that, if true, limits attention to the last ``sliding_window`` positions; it is None if the
    family has no such limit, and "" if ``sliding_window`` alone sets it. ``window`` and ``head_dim`` are the values
    that hold if the config has none.
    """

    title: str
    qkv_bias: bool | None = None
    qk_norm: bool = False
    windowed: str | None = None
    window: int | None = None
    head_dim: int | None = None


FAMILIES = {
    "llama": Family("Llama 2, 3 and 3.x, Vicuna"),
    "mistral": Family("Mistral", qkv_bias=False, windowed="", window=4096),
    "qwen2": Family("Qwen2 and Qwen2.5", qkv_bias=True, windowed="use_sliding_window"),
    "qwen3": Family("Qwen3", qk_norm=True, windowed="use_sliding_window", head_dim=128),
}


SCALINGS = ("default", "linear", "llama3")
"""Scalings of rotary positions that graphs can hold."""


def supported() -> str:
    """All families as text, for messages."""
    return ", ".join(f"{name!r} ({family.title})" for name, family in FAMILIES.items())
