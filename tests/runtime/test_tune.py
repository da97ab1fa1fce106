"""The command that tunes: record, replay, judge; a profile that run and bench take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import bench, run, tune
from runtime.drafting.profile import Profile
from s2d_trt.cli import run_command

LINES = [
    {"category": "a.py", "prompt": "the draft proposes"},
    {"category": "b.py", "prompt": "a tree of tokens is"},
    {"category": "c.py", "prompt": "the target disposes"},
    {"category": "d.py", "prompt": "the other one"},
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def engines_given(draft_bundle: Path, target_bundle: Path) -> list[str]:
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--max-new-tokens", "16"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, engines_given: list[str], prompts: Path) -> list[str]:
    """Options that read a recording and prices which are there already."""
    folder = tmp_path_factory.mktemp("recorded")
    given = ["--recording", str(folder / "r.npz"), "--prices", str(folder / "p.json"), "--prompts", str(prompts)]
    tune.main([*engines_given, *given])
    return [*engines_given, *given]


def test_every_policy_is_reported_with_its_gain_and_regret(
    kept: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*kept, "--json", str(tmp_path / "t.json")]) == 0
    assert {"first", "second", "speedup"} == set(json.loads((tmp_path / "t.json").read_text())["surface"][0])
    out = capsys.readouterr().out
    for words in ("published thresholds", "tuned thresholds", "adaptive, informed", "no policy of chains is above"):
        assert words in out
    assert "2 texts to tune on; judged on 2 texts of 2 other files" in out


def test_a_profile_that_does_not_pay_is_not_written(
    kept: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.evaluation.tuning.Tuning.adopted", False)
    tune.main([*kept, "--out", str(tmp_path / "profile.json")])
    assert "the default stays" in capsys.readouterr().out
    assert not (tmp_path / "profile.json").exists()


def test_run_and_bench_take_the_profile(
    kept: list[str],
    engines_given: list[str],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.evaluation.tuning.Tuning.adopted", True)
    path = tmp_path / "profile.json"
    tune.main([*kept, "--policy", "fixed", "--out", str(path)])
    assert "gain_over_default" in Profile.read(path).evidence
    run.main([*engines_given, "--profile", str(path), "--prompt", "a tree", "--json"])
    bench.main([*engines_given, "--profile", str(path), "--prompts", str(prompts), "--limit", "1"])
    assert "speed-up" in capsys.readouterr().out


def test_replays_are_held_against_real_runs(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*kept, "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" 0 differ without excuse" in line for line in lines) == len(tune.CHECKED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--recording", "/tmp/none.npz", "--prompts", "/nowhere.jsonl"], "cannot be read"),
        (["--out", "/"], "is a folder"),
        (["--recording", __file__], "is no recording"),
        (["--prices", __file__], "holds no prices"),
        (["--draft", "none"], "recording needs a draft model"),
    ],
)
def test_mistakes_are_one_line(
    kept: list[str], capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(tune.PROG, tune.main, [*kept, *changes])
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_prompts_of_one_file_cannot_judge(
    engines_given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"category": "a.py", "prompt": "the draft"}\n{"category": "a.py", "prompt": "a tree"}\n')
    with pytest.raises(SystemExit, match="2"):
        run_command(tune.PROG, tune.main, [*engines_given, "--prompts", str(path)])
    assert "one source file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [run, bench])
def test_a_profile_of_another_pair_is_refused(
    command, engines_given: list[str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "profile.json"
    from runtime.drafting.options import Policy

    Profile("other", "other", Policy(), exact=True).write(path)
    with pytest.raises(SystemExit, match="2"):
        run_command("command", command.main, [*engines_given, "--prompts", str(prompts), "--profile", str(path)])
    assert "another target" in capsys.readouterr().err


def test_a_profile_and_options_that_it_holds_exclude_each_other(
    engines_given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command("run", run.main, [*engines_given, "--prompt", "x", "--profile", "p", "--thresholds", "0.5,0.5,0"])
    assert "leave their options out" in capsys.readouterr().err
