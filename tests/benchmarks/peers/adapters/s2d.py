"""This project: the target alone, or S2D; one text or several in one call."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from runtime import Decoder, Options, Sampling, Scheduler
from tests.benchmarks.internals import Placement
from tests.benchmarks.internals import generate as run


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """Load the target, and the draft if the mode has one."""
    decoder = Decoder.open(mode["target"], mode.get("draft"), Placement(threads=mode["threads"]))

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        request = run(decoder, prompt, Options(new_tokens, Sampling(temperature, seed=seed)))
        stats = request.stats
        figures = {"prefill": stats.prefill, "accepted": stats.mean_accepted_tokens, "overhead": stats.overhead}
        return request.tokens, figures

    return generate


def open_batch(mode: dict[str, Any]) -> Callable[..., tuple[list[list[int]], dict[str, float]]]:
    """As ``open_mode``, with one call of the engines for all texts; the target alone drafts nothing."""
    decoder = Decoder.open(mode["target"], mode.get("draft"), Placement(threads=mode["threads"]))
    decoder.prepare(Options(draft="draft" in mode), sequences=mode["texts"])
    scheduler = Scheduler(sequences=mode["texts"], offline=True)

    def generate(
        prompts: list[list[int]], new_tokens: int, temperature: float, seeds: list[int]
    ) -> tuple[list[list[int]], dict[str, float]]:
        requests = [
            decoder.request(prompt, Options(new_tokens, Sampling(temperature, seed=seed), draft="draft" in mode))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for request in requests:
            scheduler.add(request)
        while scheduler.busy:
            scheduler.step()
        for request in requests:
            if request.error is not None:
                raise request.error
        accepted = fmean(request.stats.mean_accepted_tokens for request in requests)
        return [request.tokens for request in requests], {"accepted": accepted}

    return generate
