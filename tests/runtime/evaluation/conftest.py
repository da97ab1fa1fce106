"""Recorded texts of both targets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.costs import WIDTHS, Costs
from runtime.evaluation.replay.prices import Overhead, Prices, Slowness
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording
from runtime.sampling.options import Sampling

TEXTS = [
    ("one", "the draft proposes"),
    ("one", "a tree of tokens is verified"),
    ("two", "the other"),
    ("two", "the target disposes and the target"),
]
NEW_TOKENS = 24
EXITS = 3
PRICES = Prices(
    Costs(
        tuple(10.0 + 0.1 * rows for rows in WIDTHS),
        tuple(tuple(1.0 + 0.1 * rows for rows in WIDTHS) for _ in range(EXITS)),
        tuple(0.5 for _ in WIDTHS),
        token=0.01,
        segment_tokens=(0.001,) * EXITS,
    ),
    (
        Overhead(1, Slowness(1.1, (1.0, 4.0), (1.2, 1.4), (1.0, 3.0), (1.5, 1.3)), 0.2, 0.3, 0.1, 0.02, noise=0.02),
        Overhead(4, Slowness(0.9, (1.0,), (1.1,), (1.0,), (1.2,)), 0.4, 0.6, 0.1, 0.02, noise=0.03),
    ),
)


def sampled(temperature: float) -> Options:
    return Options(max_new_tokens=NEW_TOKENS, sampling=Sampling(temperature=temperature, seed=5))


def encoded(decoder: Decoder, texts: Sequence[tuple[str, str]] = TEXTS) -> list[tuple[str, list[int]]]:
    return [(category, decoder.request(text).prompt) for category, text in texts]


@pytest.fixture(scope="session")
def recorder(decoder: Decoder) -> Recorder:
    return Recorder(decoder)


@pytest.fixture(scope="session")
def recording(recorder: Recorder, decoder: Decoder) -> Recording:
    """Greedy texts of the target that often agrees with the draft."""
    return recorder.record(encoded(decoder), sampled(0.0))
