"""A decoder over small bundles, and caches of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.targets.target import Target


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What these tests keep stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(made := tmp_path_factory.mktemp("cache")))
        yield made


@pytest.fixture(scope="session")
def decoder(other_target_bundle: Path) -> Decoder:
    """A target without a draft."""
    return Decoder(Target.open(other_target_bundle, Placement(threads=1)))
