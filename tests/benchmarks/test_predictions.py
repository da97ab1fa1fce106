"""Predictions held against what runs take: the figures, and the whole command on small models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from s2d_trt.cli import run_command
from tests.benchmarks.predictions import POLICIES, PROG, Prediction, main, rows

EXACT = Prediction("t", 0.0, "adaptive", 8, 1.5, 1.5, 1.4, 1.6, 1.5, 1.5, 1.5)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    texts = ["the draft proposes", "a tree of tokens is", "the target", "the other one"]
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in texts), encoding="utf-8")
    return path


def test_errors_are_medians_over_predictions_from_as_many_texts() -> None:
    off = replace(EXACT, predicted=1.8, low=1.7, high=1.9, other_prices=1.2)
    row, more = rows([EXACT, off, off, replace(EXACT, texts=24)])
    assert (row["recorded texts"], row["predictions"], row["median error"]) == (8, 3, "20.0%")
    assert row["90 % intervals hold"] == "1 of 3"
    assert row["from the other target's overheads"] == "20.0%"
    assert (more["median error"], more["from the other target's overheads"]) == ("0.0%", "")


def test_a_verdict_is_judged_where_drafting_makes_a_difference() -> None:
    assert EXACT.verdict_right is True
    assert replace(EXACT, predicted=0.9).verdict_right is False
    assert replace(EXACT, predicted=0.9, measured=0.9).verdict_right is True
    assert replace(EXACT, measured=1.04).verdict_right is None


def test_every_target_and_policy_is_predicted_from_every_draw(
    target_bundle: Path, other_target_bundle: Path, draft_bundle: Path, prompts: Path, tmp_path: Path
) -> None:
    main(
        ["--target", f"{target_bundle},{other_target_bundle}", "--draft", str(draft_bundle), "--prompts", str(prompts),
         "--temperature", "0", "--max-new-tokens", "6", "--recorded", "1,2", "--draws", "1", "--threads", "1",
         "--out", str(tmp_path / "figures")]
    )  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures) == 2 * 2 * 2 * len(POLICIES)
    assert all(each["low"] <= each["predicted"] <= each["high"] for each in figures)
    assert [each["other_prices"] is None for each in figures] == [True] * (len(figures) // 2) + [False] * (
        len(figures) // 2
    )
    assert "recorded texts" in (tmp_path / "figures.md").read_text()


def test_too_few_texts_to_hold_predictions_against_are_refused(
    target_bundle: Path, draft_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--target", str(target_bundle), "--draft", str(draft_bundle), "--prompts", str(prompts), "--threads", "1"]
    with pytest.raises(SystemExit, match="2"):
        run_command(PROG, main, [*given, "--recorded", "3", "--max-new-tokens", "2"])
    assert "3 recorded texts need as many others" in capsys.readouterr().err
