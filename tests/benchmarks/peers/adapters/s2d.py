"""This project: the target alone, or S2D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime import Decoder, Options, Sampling
from tests.benchmarks.internals import Placement
from tests.benchmarks.internals import generate as run


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """``draft`` None runs the target alone."""
    decoder = Decoder.open(mode["target"], mode.get("draft"), Placement(threads=mode["threads"]))

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        request = run(decoder, prompt, Options(new_tokens, Sampling(temperature, seed=seed)))
        stats = request.stats
        figures = {"prefill": stats.prefill, "accepted": stats.mean_accepted_tokens, "overhead": stats.overhead}
        return request.tokens, figures

    return generate
