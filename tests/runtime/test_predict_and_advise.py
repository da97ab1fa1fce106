"""The commands that predict and advise, from recording to report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import advise, predict
from s2d_trt.cli import run_command


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["the draft proposes", "a tree of tokens is", "the target", "the other one"]
    lines = [json.dumps({"category": f"{index}.py", "prompt": text}) for index, text in enumerate(texts)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pair(draft_bundle: Path, target_bundle: Path) -> list[str]:
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--max-new-tokens", "12"]


def test_a_prediction_is_held_against_other_prompts(
    pair: list[str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*pair, "--threads", "1", "--prompts", str(prompts), "--limit", "2", "--lanes", "1,2"]
    files = ["--json", str(tmp_path / "p.json"), "--write-hardware", str(tmp_path / "h.json")]
    predict.main([*given, *files, "--measure-prompts", "2"])
    out = capsys.readouterr().out
    for words in ("2 at a time: speed-up", "formula of constant acceptance", "measured on 2 other prompts"):
        assert words in out
    figures = json.loads((tmp_path / "p.json").read_text())
    assert [each["texts"] for each in figures["predictions"]] == [1, 2]
    assert len(figures["compared"]) == 2
    predict.main([*given, "--hardware", str(tmp_path / "h.json")])
    assert "speed-up" in capsys.readouterr().out


def test_a_prediction_stands_beside_what_the_last_other_pair_gained(
    pair: list[str],
    other_target_bundle: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("runtime.evaluation.last_pair.cache_file", lambda kind, *parts: tmp_path / f"{kind}.json")
    given = ["--threads", "1", "--prompts", str(prompts), "--limit", "2"]
    predict.main([*pair, *given])
    predict.main([*pair, *given])
    assert "the last pair" not in capsys.readouterr().out
    predict.main([*pair, *given, "--target", str(other_target_bundle)])
    assert "the last pair (target with draft) had" in capsys.readouterr().out


def test_predicting_needs_prompts_to_measure(
    pair: list[str], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(
            predict.PROG,
            predict.main,
            [*pair, "--threads", "1", "--prompts", str(prompts), "--limit", "9", "--measure-prompts", "2"],
        )
    assert "no prompts are left" in capsys.readouterr().err


def test_advice_names_the_best_setting_and_writes_all(
    pair: list[str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "load.csv").write_text("\n".join(["1", "5", "2"] * 4))
    advise.main(
        [*pair, "--price", "1.2", "--prompts", str(prompts), "--limit", "2", "--lanes", "1,2", "--thread-counts", "1",
         "--load", str(tmp_path / "load.csv"), "--season", "3", "--json", str(tmp_path / "a.json")]
    )  # fmt: skip
    out = capsys.readouterr().out
    for words in ("nothing is both cheaper and faster", "now:", "best:", "load:"):
        assert words in out
    settings = json.loads((tmp_path / "a.json").read_text())["settings"]
    assert len(settings) == 2 * (len(advise.POLICIES) + 1)
    assert any(each["on_front"] for each in settings)


def test_a_device_that_does_not_fit_is_left_out_of_several(
    pair: list[str], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*pair, "--price", "1.2", "--prompts", str(prompts), "--limit", "2", "--lanes", "1", "--thread-counts", "1"]
    advise.main([*given, "--devices", "cpu,cuda:9"])
    printed = capsys.readouterr()
    assert "left out: " in printed.err
    assert "adaptive, cpu, 1 threads" in printed.out
    with pytest.raises(SystemExit, match="2"):
        run_command(advise.PROG, advise.main, [*given, "--devices", "cuda:9"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("price", ["0", "-1"])
def test_a_price_that_is_none_is_refused(
    pair: list[str], prompts: Path, capsys: pytest.CaptureFixture[str], price: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(advise.PROG, advise.main, [*pair, "--price", price, "--prompts", str(prompts)])
    assert "above 0" in capsys.readouterr().err
