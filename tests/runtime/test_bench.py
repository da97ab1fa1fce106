"""The command that measures: every figure of every turn, and how many outputs are identical."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.bench import PROG, Result, main, report_lines, run_prompts
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.evaluation.comparison import Comparison, compare, generate, target_alone
from runtime.evaluation.prompts import Prompt
from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError
from tests.mistakes import mistake

FIGURES = {
    "target",
    "temperature",
    "prompts",
    "skipped",
    "tokens_per_second",
    "speedup",
    "speedup_by_prompt",
    "speedup_by_category",
    "mean_accepted_tokens",
    "exit_shares",
    "identical",
    "bit_identical",
    "differences",
    "overhead",
    "seconds",
    "turns",
}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the draft proposes"}\n{"prompt": "a tree", "category": "code"}\n', encoding="utf-8")
    return path


@pytest.fixture
def engines_given(draft_bundle: Path, target_bundle: Path) -> list[str]:
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--max-new-tokens", "10"]


def bench(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    main(argv)
    return capsys.readouterr().out


def figures(path: Path) -> list[dict[str, Any]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(data, list)
    return data


def test_the_report_says_how_many_outputs_are_identical(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], prompts: Path
) -> None:
    report = bench(capsys, [*engines_given, "--prompts", str(prompts)])
    assert report.startswith("target, temperature 0, 2 prompts\n")
    assert "identical       2/2, 2 with scores equal in every bit" in report
    for row in ("target alone ", "S2D ", "speed-up ", "mean accepted ", "exits ", "overhead "):
        assert f"\n  {row}" in report


def test_each_target_is_measured_at_each_temperature(
    capsys: pytest.CaptureFixture[str],
    engines_given: list[str],
    prompts: Path,
    target_bundle: Path,
    other_target_bundle: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.json"
    both = f"{target_bundle},{other_target_bundle}"
    given = [*engines_given, "--target", both, "--prompts", str(prompts), "--temperature", "0,1", "--limit", "1"]
    report = bench(capsys, [*given, "--json", str(out)])
    expected = [("target", 0), ("target", 1), ("other", 0), ("other", 1)]
    assert [(result["target"], result["temperature"]) for result in figures(out)] == expected
    assert all(result["prompts"] == result["identical"] == 1 for result in figures(out))
    assert report.count("identical       1/1") == 4


def test_the_json_file_holds_every_figure_of_every_turn(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    bench(capsys, [*engines_given, "--prompts", str(prompts), "--json", str(out), "--tree", "paper"])
    (result,) = figures(out)
    assert set(result) == FIGURES
    assert [turn["category"] for turn in result["turns"]] == ["", "code"]
    for turn in result["turns"]:
        assert 1 + sum(turn["accept_lengths"]) == len(turn["tokens"]) == 10
        assert set(turn["wall_time"]) == {"s2d", "alone"}
        assert turn["identical"] is True
    lengths = [length for turn in result["turns"] for length in turn["accept_lengths"]]
    assert result["mean_accepted_tokens"] == pytest.approx(sum(lengths) / len(lengths))
    assert sum(result["exit_shares"].values()) == pytest.approx(1)
    speed = result["tokens_per_second"]
    assert result["speedup"] == pytest.approx(speed["s2d"] / speed["alone"])
    assert 0 < result["overhead"] < 1


def test_speed_up_is_the_ratio_of_the_mean_speeds(decoder: Decoder) -> None:
    result = run_prompts(decoder, [Prompt("", ("the draft",)), Prompt("", ("a tree",))], Options(8), 0.0)
    ours = sum(pair.drafted.tokens_per_second for pair in result.pairs)
    theirs = sum(pair.alone.tokens_per_second for pair in result.pairs)
    assert result.summary()["speedup"] == pytest.approx(ours / theirs)


def test_every_turn_of_a_question_is_answered_behind_the_turns_before_it(decoder: Decoder) -> None:
    result = run_prompts(decoder, [Prompt("writing", ("the draft", "and the target"))], Options(8), 0.0)
    first, second = result.pairs
    assert first.category == second.category == "writing"
    text = "the draft" + first.alone.text + "\n" + "and the target"
    assert second.drafted.prompt == decoder.tokenizer.encode(text).ids


def test_two_turns_of_a_spec_bench_line_give_two_results(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "question.jsonl"
    line = {"question_id": 81, "category": "writing", "turns": ["the draft", "the target"]}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert "identical       2/2" in bench(capsys, [*engines_given, "--prompts", str(path)])


def test_a_turn_that_does_not_fit_is_skipped_and_counted(decoder: Decoder) -> None:
    result = run_prompts(decoder, [Prompt("", ("a tree " * 200,)), Prompt("", ("a tree",))], Options(4), 0.0)
    assert (len(result.pairs), result.skipped) == (1, 1)
    assert "1 prompts (1 too long, skipped)" in report_lines(result)[0]


def test_prompts_none_of_which_fits_are_refused(decoder: Decoder) -> None:
    with pytest.raises(OptionError, match="none of the prompts fits"):
        run_prompts(decoder, [Prompt("", ("a tree " * 200,))], Options(4), 0.0)


def test_one_new_token_can_be_measured(decoder: Decoder) -> None:
    result = run_prompts(decoder, [Prompt("", ("a tree",))], Options(1), 0.0)
    assert result.summary()["mean_accepted_tokens"] == 0.0
    assert result.summary()["exit_shares"] == {}


def test_outputs_that_differ_are_found_with_their_place_and_margin(decoder: Decoder) -> None:
    ours = generate(decoder, [5, 9], Options(6, Sampling(1.0, seed=1)))
    theirs = target_alone(decoder, [5, 9], Options(6, Sampling(1.0, seed=1)))
    assert compare(decoder, ours, theirs) == Comparison(identical=True, bits=True)
    ours.tokens[3] = (theirs.tokens[3] + 1) % 300
    found = compare(decoder, ours, theirs)
    assert (found.identical, found.position) == (False, 3)
    assert found.margin is not None
    assert found.margin > 0


def test_an_output_that_ends_early_differs_though_all_its_tokens_agree(decoder: Decoder) -> None:
    ours, theirs = (generate(decoder, [5, 9], Options(length)) for length in (4, 6))
    assert compare(decoder, ours, theirs) == Comparison(identical=False, position=4)


@pytest.mark.parametrize(("margin", "said"), [(1e-5, "(rounding size)"), (0.5, "5.0e-01 apart"), (None, "length")])
def test_the_report_says_where_outputs_differ_and_by_how_little(
    decoder: Decoder, margin: float | None, said: str
) -> None:
    result = run_prompts(decoder, [Prompt("", ("a tree",))], Options(4), 0.0)
    (pair,) = result.pairs
    pair = type(pair)(pair.category, pair.drafted, pair.alone, Comparison(False, False, 2, margin))
    report = "\n".join(report_lines(Result("target", 0.0, [pair])))
    assert "identical       0/1" in report
    assert said in report.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not json\n", "line 1 is neither"), (b"", "holds no prompt"), (b"\xff", "not UTF-8"), (None, "cannot be read")],
)
def test_a_bad_prompts_file_is_one_line(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert reason in mistake(capsys, PROG, main, [*engines_given, "--prompts", str(path)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--target", "no-such-target"], "no bundle named no-such-target"),
        (["--thresholds", "0.5"], "1 thresholds for 3 exits"),
        (["--temperature", "0,-1"], "temperature -1"),
        (["--temperature", "1,1"], "names one twice"),
        (["--limit", "0"], "at least 1"),
        (["--exact", "--tree", "paper"], "--exact drafts chains"),
        (["--json", "no/such/folder/out.json"], "no existing folder"),
        (["--json", "."], "folder"),
    ],
)
def test_a_wrong_option_is_one_line(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], prompts: Path, options: list[str], reason: str
) -> None:
    assert reason in mistake(capsys, PROG, main, [*engines_given, "--prompts", str(prompts), *options])
