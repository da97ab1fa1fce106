"""The ablation: each draft is trained, exported and measured by the project's own commands, and what exists is kept."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from s2d_trt.cli import run_command
from s2d_trt.training import checkpoint
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import Shape, new_model
from tests.benchmarks import ablation
from tests.benchmarks.ablation import DRAFTS, Measurement, table

QUICK = [
    "--steps", "1", "--batch", "1", "--seq-length", "32", "--limit", "1", "--max-new-tokens", "4", "--threads", "1",
]  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_command("ablation", ablation.main, [*QUICK, *map(str, arguments)])
    return int(exit_.value.code or 0)


def thresholds(name: str) -> dict[str, str]:
    (draft,) = [draft for draft in DRAFTS if draft.name == name]
    return dict(draft.policies())


def test_a_sorted_draft_is_run_at_each_exit_alone_and_as_a_cascade() -> None:
    """A confidence lies between 0 and 1, so 1.1 always goes on and 0.0 always answers."""
    assert thresholds("soft") == {
        "exit 6": "0.0,0.0,0.0", "exit 9": "1.1,0.0,0.0", "exit 12": "1.1,1.1,0.0", "cascade": "0.5,0.5,0.0",
    }  # fmt: skip
    assert thresholds("soft") == thresholds("soft-distilled") == thresholds("soft-aligned")


def test_the_baseline_is_a_draft_for_each_depth() -> None:
    assert [thresholds(f"sft-{depth}") for depth in (6, 9, 12)] == [{f"exit {n}": "0.0"} for n in (6, 9, 12)]


def test_the_table_sets_chain_and_tree_side_by_side() -> None:
    def row(tree: str, accepted: float, speedup: float, identical: int) -> Measurement:
        return Measurement("SoFT", "cascade", tree, accepted, speedup, identical, 12, {"6": 1.0})

    options = Namespace(target=Path("t"), steps=3, batch=2, seq_length=1000, limit=12, max_new_tokens=64)
    text = table([row("chain", 1.5, 1.25, 12), row("paper", 2.5, 1.5, 11)], options)
    assert text.startswith(
        "Target t; each draft begins as its first layers and is trained for 3 steps of 2,000 tokens. 12 prompts,"
        " greedy, 64 tokens each.\n"
    )
    assert text.endswith("\n| SoFT | cascade | 1.50 | 1.25x | 2.50 | 1.50x | 23/24 |\n")


def test_one_command_trains_exports_and_measures_and_repeats_nothing(
    tmp_path: Path, texts: Path, vocabulary: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    target, work = tmp_path / "small", tmp_path / "work"
    shape = Shape(hidden=16, layers=7, heads=2, kv_heads=1, ffn=24, vocab=300, max_length=2048)
    checkpoint.publish(new_model(shape, (7,), 3, vocabulary), vocabulary, (7,), target, {})
    options = ("--target", target, "--data", texts, "--work", work, "--only", "sft-6")
    assert run(*options) == 0
    printed = capsys.readouterr().out
    rows = json.loads((work / "table.json").read_text())
    assert [(row["policy"], row["tree"], row["prompts"]) for row in rows] == [
        ("exit 6", "chain", 1),
        ("exit 6", "paper", 1),
    ]
    assert all(row["mean_accepted_tokens"] >= 1 and row["speedup"] > 0 for row in rows)
    assert all(row["exit_shares"] == {"6": 1.0} for row in rows)
    assert printed.endswith((work / "table.md").read_text() + "\n")
    assert "Target small; each draft begins as its first layers" in printed
    assert (work / "sft-6" / "model.safetensors").is_file()

    times = {path: path.stat().st_mtime_ns for path in work.rglob("*") if not path.name.startswith("table")}
    times.pop(work / "settings.json")
    assert run(*options) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())

    assert run(*options, "--steps", "2") == 2
    assert "holds an ablation with other settings" in capsys.readouterr().err


def test_a_command_that_fails_is_named_with_its_last_word(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hollow, work = tmp_path / "hollow", tmp_path / "work"
    hollow.mkdir()
    (hollow / "config.json").write_bytes((target / "config.json").read_bytes())
    assert run("--target", hollow, "--work", work) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.startswith("ablation: export.target failed for target: ")
    assert f"(all of it is in {work / 'target.log'})" in error


def test_other_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "soft,sfot", "--work", tmp_path / "work") == 2
    assert "there is no draft sfot; there are sft-6, sft-9, sft-12, soft, " in capsys.readouterr().err
    assert run("--target", tmp_path / "nowhere", "--work", tmp_path / "work") == 2
    assert "is no checkpoint; run this in the project's folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
