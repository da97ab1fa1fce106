"""Weights that are not finite, under a right hash, end a text with an error that says where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate, target_alone
from runtime.targets.target import Target
from s2d_trt.bundle import Bundle, file_sha256
from s2d_trt.errors import BundleError


@pytest.fixture
def poisoned(tmp_path: Path) -> Callable[[Path, float], Path]:
    """Makes a copy of a bundle in whose last weights, those of the head, one number is another."""

    def made(source: Path, value: float) -> Path:
        directory = Path(shutil.copytree(source, tmp_path / f"poisoned-{source.name}"))
        manifest = json.loads((directory / "manifest.json").read_text())
        weights = directory / manifest["weights"]
        numbers = np.fromfile(weights, np.float32)
        numbers[len(numbers) // 2] = value
        numbers.tofile(weights)
        manifest["files"][weights.name]["sha256"] = file_sha256(weights)
        (directory / "manifest.json").write_text(json.dumps(manifest))
        Bundle.open(directory)
        return directory

    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_score_that_is_not_finite_ends_the_text_and_says_where(
    other_target_bundle: Path, poisoned: Callable[[Path, float], Path], value: float, temperature: float
) -> None:
    decoder = Decoder(Target.open(poisoned(other_target_bundle, value), Placement(threads=1)))
    request = decoder.request([5, 9, 7], Options(8, draft=False), temperature=temperature, seed=1)
    with pytest.raises(BundleError, match=r"target other gives a score of \S+ for token \d+ of the text"):
        list(decoder.run(request))
    assert request.finish_reason == "error"


def test_a_draft_whose_weights_are_not_finite_changes_no_text(
    target: Target, draft_bundle: Path, poisoned: Callable[[Path, float], Path]
) -> None:
    draft = SortedDraft.open(poisoned(draft_bundle, float("nan")), Placement(threads=1))
    decoder = Decoder(target, draft)
    request = generate(decoder, [5, 9, 7], Options(24))
    assert request.tokens == target_alone(decoder, [5, 9, 7], Options(24)).tokens
