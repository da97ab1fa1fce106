"""The model families that are read, and in what their layers differ from a plain Llama."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """How a ``model_type`` fills in what its config leaves out.

    ``qkv_bias`` None: as ``attention_bias`` says, which then holds for the output projection too.
    ``windowed``: which field, when true, says that attention reaches back only ``sliding_window`` positions; None where
    it never does, "" where giving ``sliding_window`` is enough. ``window`` is what a config that is silent means.
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


def supported() -> str:
    """All of them, for messages."""
    return ", ".join(f"{name!r} ({family.title})" for name, family in FAMILIES.items())
