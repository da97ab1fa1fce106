"""What is checked and measured before the first text, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.learned import PairStatistics
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate
from runtime.targets.target import Target


def test_making_a_request_measures_and_checks_nothing(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("not now")

    decoder = Decoder(target, draft)
    monkeypatch.setattr("runtime.decoding.preparation.measured_costs", never)
    monkeypatch.setattr(target, "check_exact", never)
    decoder.request([5, 9])


def test_preparation_says_what_it_does_and_does_it_once(
    target_bundle: Path, draft_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for expected in (["checking", "measuring"], []):
        decoder, said = Decoder.open(target_bundle, draft_bundle, Placement(threads=1)), list[str]()
        decoder.prepare(Options(), said.append)
        decoder.prepare(Options(), said.append)
        assert [line.split()[0] for line in said] == expected
    decoder.prepare(Options(), said.append, measure=True)
    assert len(said) == 1


def test_a_target_with_a_short_cache_is_drafted_for(
    target_checkpoint: Path, draft: SortedDraft, tmp_path: Path
) -> None:
    from export import target as export_target

    out = tmp_path / "short.engine"
    export_target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--max-length", "64", "--no-parity"])
    decoder = Decoder(Target.open(out, Placement(threads=1)), draft)
    assert len(generate(decoder, [5, 9], Options(30)).tokens) == 30


def test_costs_that_disagree_with_the_steps_of_a_text_are_measured_again_at_the_next_start(
    target_bundle: Path, draft_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []
    for ratio in (3.0, 1.0):
        decoder = Decoder.open(target_bundle, draft_bundle, Placement(threads=1))
        said: list[str] = []
        decoder.prepare(Options(), said.append)
        measured.append(any(line.startswith("measuring") for line in said))
        monkeypatch.setattr(PairStatistics, "disagreement", property(lambda _, ratio=ratio: ratio))
        generate(decoder, [5, 9], Options(4))
    assert measured == [True, True]
