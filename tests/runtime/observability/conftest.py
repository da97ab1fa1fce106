"""A server over tiny bundles, with costs that are not measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.decoding.decoder import Decoder
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.observability.monitor import Monitor
from runtime.serving.targets import ServedTarget
from runtime.targets.target import Target
from tests.runtime.observability.live_server import LiveServer, live_server


@pytest.fixture
def targets(known_costs: None, target: Target, other_target: Target, draft: SortedDraft) -> list[ServedTarget]:
    """Two targets that always draft; nothing is learned of them yet."""
    served = []
    for name, model in (("target", target), ("other", other_target)):
        decoder = Decoder(model, draft)
        decoder.prepare(sequences=4)
        served.append(ServedTarget(name, decoder, Policy(FixedThresholds())))
    return served


@pytest.fixture
def server(targets: list[ServedTarget]) -> Iterator[LiveServer]:
    """Serves both targets."""
    with live_server(targets, Monitor()) as server:
        yield server


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """The path of a program; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed (Debian's package of this name, or prometheus for promtool)")
        return Path(found)

    return find
