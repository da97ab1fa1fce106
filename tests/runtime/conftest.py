"""Tests of the runtime: real sessions over tiny bundles, and the same examples at every run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets.target import Target
from tests.runtime.decoding.served import COSTS

settings.register_profile("runtime", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("runtime")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured of the tests' engines stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def known_costs() -> Iterator[None]:
    """Nothing is measured: how fast a text is, and what it drafts, does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.decoding.preparation.measured_costs", lambda *_, **__: COSTS)
        yield


@pytest.fixture(scope="session")
def draft(draft_bundle: Path) -> SortedDraft:
    """Six layers with exits 2, 4 and 6."""
    return SortedDraft.open(draft_bundle, Placement(threads=1))


@pytest.fixture(scope="session")
def target(target_bundle: Path) -> Target:
    """A target that often agrees with the draft."""
    return Target.open(target_bundle, Placement(threads=1))


@pytest.fixture(scope="session")
def other_target(other_target_bundle: Path) -> Target:
    """A target that hardly ever agrees with the draft."""
    return Target.open(other_target_bundle, Placement(threads=1))


@pytest.fixture(scope="session")
def decoder(target: Target, draft: SortedDraft) -> Decoder:
    """The agreeing target and the draft."""
    return Decoder(target, draft)


@pytest.fixture(scope="session")
def other_decoder(other_target: Target, draft: SortedDraft) -> Decoder:
    """The other target with the same draft object."""
    return Decoder(other_target, draft)


@pytest.fixture(scope="session")
def short_draft(draft_checkpoint: Path, engines: Path) -> SortedDraft:
    """The draft with a cache of 64 positions."""
    from export import build

    out = engines / "short-draft.engine"
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--max-length", "64", "--no-parity"])
    return SortedDraft.open(out, Placement(threads=1))


@pytest.fixture
def engines_given(draft_bundle: Path, target_bundle: Path) -> list[str]:
    """The arguments that name the engines."""
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--max-new-tokens", "12"]


@pytest.fixture
def usual(engines_given: list[str]) -> list[str]:
    """The arguments of a command that generates."""
    return [*engines_given, "--prompt", "the draft"]
