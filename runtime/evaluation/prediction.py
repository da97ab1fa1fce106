"""Predicting the speed-up of a pair from recorded texts and prices, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.drafting.options import Policy
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recorder import Recorder, replayed
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.statistics import Interval, predicted

UNDECIDED = 0.05
"""A speed-up this close to 1 is no reason to draft or not to draft."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The speed-up with so many texts at a time, and where it lies with 90 % probability; tokens a second of all."""

    texts: int
    speedup: Interval
    tokens_per_second: float
    alone_per_second: float
    by_text: tuple[float, ...] = ()
    """The speed-up of each text; only for one at a time."""

    @property
    def verdict(self) -> str:
        """Whether to draft."""
        if abs(self.speedup.value - 1.0) <= UNDECIDED:
            return "makes no difference"
        return "draft" if self.speedup.value > 1.0 else "do not draft"


def predict(
    recorder: Recorder,
    recording: Recording,
    prices: Prices,
    policy: Policy,
    texts: int = 1,
    chain: bool = True,
    measured: int | None = None,
) -> Predicted:
    """The decoding of texts like those of a recording, prompts not counted, under ``prices``; of all such texts, or of
    so many that will be ``measured``. Where more are decoded at a time than were recorded, each of them is there
    several times.
    """
    count = len(recording.texts)
    copies = recording.subset([*range(count)] * -(-texts // max(1, count)))
    replays = replayed(recorder, copies, prices, policy, chain, texts)
    tokens = np.array([len(record.tokens) - 1 for record in copies.texts])
    ours = _of_texts([text.milliseconds for text in replays], count)
    theirs = _of_texts(prices.alone(copies.texts, texts), count)
    categories, noise = [record.category for record in recording.texts], prices.of(texts).noise
    speedup = predicted(ours, theirs, categories, noise, measured)
    each = tuple((theirs / ours).tolist()) if texts == 1 else ()
    speeds = tokens.sum() / ours.sum() * 1e3, tokens.sum() / theirs.sum() * 1e3
    return Predicted(texts, speedup, float(speeds[0]), float(speeds[1]), each)


def _of_texts(milliseconds: Sequence[float], count: int) -> np.ndarray:
    """The sum over the copies of each of ``count`` texts."""
    summed: np.ndarray = np.reshape(milliseconds, (-1, count)).sum(axis=0)
    return summed


def break_even(predictions: Sequence[Predicted]) -> int | None:
    """The first number of texts from which drafting no longer pays; None where it pays for all."""
    return next(
        (each.texts for each in sorted(predictions, key=lambda each: each.texts) if each.speedup.value < 1), None
    )


def constant_acceptance(recording: Recording, prices: Prices, drafted: int = 3) -> float:
    """The textbook's speed-up (Leviathan et al., arXiv 2211.17192): every drafted token is accepted with the same
    probability, a pass of the first exit costs the same share of the target's, verification costs nothing more.
    """
    rate = acceptance_rate(recording)
    share = prices.draft_ms(prices.costs.exit_ms(0, 1, 1), 1) / prices.verify_ms(1, 1, 0)
    expected = drafted + 1 if rate == 1 else (1 - rate ** (drafted + 1)) / (1 - rate)
    return expected / (drafted * share + 1)


def acceptance_rate(recording: Recording, exit_index: int = 0) -> float:
    """Share of positions at which an exit's best candidate is the target's token."""
    hits = total = 0
    for record in recording.texts:
        for node in range(len(record.prompt), len(record.prompt) + len(record.tokens) - 1):
            if node in record.candidates:
                hits += int(record.candidates[node][exit_index][0][0, 0]) == record.text[node + 1]
                total += 1
    return hits / total if total else 0.0
