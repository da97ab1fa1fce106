"""Texts that are served together, and the same texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.costs import WIDTHS, Costs
from runtime.sampling.options import Sampling

NEW = 32
SHARED = np.random.default_rng(1).integers(1, 300, 140).tolist()
"""Several prompts begin with it."""
PROMPTS = ([5, 9], [7] * 20, [44, 3, 8] * 21, SHARED[:64], SHARED[:66], SHARED[:130], [*SHARED, 1], [*SHARED, 2, 3])
GREEDY = Sampling()
LINE = tuple(1.0 + 0.05 * rows for rows in WIDTHS)
COSTS = Costs(LINE, (LINE,) * 3, LINE, ((2, 0.2), (4, 0.4), (8, 0.8)), ((2, 0.1), (4, 0.2), (8, 0.4)))


@dataclass(frozen=True)
class Text:
    """What is asked for, and when: the steps at which it joins and at which it is cancelled."""

    decoder: int = 0
    prompt: int = 0
    options: Options = field(default_factory=lambda: Options(NEW))
    joins: int = 0
    cancelled: int | None = None


class Leases:
    """What texts hold of the targets and the draft."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.owners: list[Any] = list(
            {id(owner): owner for each in decoders for owner in (each.target, each.draft)}.values()
        )

    @property
    def free(self) -> list[int]:
        """Sequences that each owner has to give."""
        return [len(owner._free) for owner in self.owners]

    def check(self, requests: Sequence[Request], free_before: list[int]) -> None:
        """Nothing is held, nothing is lost, and nothing was given back twice."""
        assert all(request.sequence is None and request.drafting is None for request in requests)
        for owner, before in zip(self.owners, free_before, strict=True):
            assert len(set(map(id, owner._free))) == len(owner._free) >= before


def serve(scheduler: Scheduler, decoders: Sequence[Decoder], texts: Sequence[Text]) -> list[Request]:
    """Run all texts; each joins and is cancelled at its step."""
    requests = [decoders[text.decoder].request(PROMPTS[text.prompt], text.options) for text in texts]
    number, steps = 0, [[] for _ in texts]
    while scheduler.busy or number <= max(text.joins for text in texts):
        for text, request in zip(texts, requests, strict=True):
            if text.joins == number:
                scheduler.add(request)
            if text.cancelled == number:
                request.cancel()
        for request, step in scheduler.step():
            steps[requests.index(request)] += step.tokens
        assert len(scheduler.running) <= scheduler.sequences
        number += 1
        assert number < 2000, "the texts do not come to an end"
    assert steps == [request.tokens for request in requests]
    return requests


class Noting(CacheMemory):
    """Counts the texts that had to give way."""

    preempted = 0

    def end(self, request: Request) -> None:
        """Count a text that has not ended."""
        self.preempted += not request.finished
        super().end(request)
