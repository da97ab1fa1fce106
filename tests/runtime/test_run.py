"""The command that generates: its output, its JSON, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.run import PROG, main
from s2d_trt.bundle import MANIFEST
from s2d_trt.cli import run_command

KEYS = {
    "text",
    "tokens",
    "prompt_tokens",
    "new_tokens",
    "finish_reason",
    "seed",
    "exact",
    "steps",
    "mean_accepted_tokens",
    "accept_lengths",
    "exit_counts",
    "tokens_per_second",
    "seconds",
}


@pytest.fixture
def engines_given(draft_bundle: Path, target_bundle: Path) -> list[str]:
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--max-new-tokens", "12"]


@pytest.fixture
def usual(engines_given: list[str]) -> list[str]:
    return [*engines_given, "--prompt", "the draft"]


def output(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    main(argv)
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], argv: list[str]) -> dict[str, Any]:
    result = json.loads(output(capsys, [*argv, "--json"]))
    assert isinstance(result, dict)
    return result


def test_json_has_the_documented_keys(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    result = as_json(capsys, usual)
    assert set(result) == KEYS
    assert set(result["seconds"]) == {"prefill", "draft", "verify", "other"}
    assert result["new_tokens"] == len(result["tokens"]) == 12
    assert result["finish_reason"] == "length"
    assert result["steps"] == len(result["accept_lengths"])
    assert 1 + sum(result["accept_lengths"]) == 12
    assert result["mean_accepted_tokens"] == pytest.approx(11 / result["steps"])
    assert set(result["exit_counts"]) <= {"2", "4", "6"}
    assert result["tokens_per_second"] > 0


def test_json_with_a_baseline_adds_the_comparison(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    result = as_json(capsys, [*usual, "--baseline", "--temperature", "1"])
    assert set(result) == KEYS | {"baseline", "speedup", "identical", "bit_identical"}
    assert set(result["baseline"]) == {"tokens", "tokens_per_second"}
    assert result["exact"] is result["identical"] is result["bit_identical"] is True
    assert result["baseline"]["tokens"] == result["tokens"]
    assert result["speedup"] == pytest.approx(result["tokens_per_second"] / result["baseline"]["tokens_per_second"])


def test_exact_is_identical_to_the_target_alone(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    assert as_json(capsys, [*usual, "--baseline", "--exact"])["identical"] is True


def test_the_text_comes_first_and_the_table_after_it(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    shown = output(capsys, [*usual, "--temperature", "1", "--seed", "7", "--baseline", "--policy", "fixed"])
    text = as_json(capsys, [*usual, "--temperature", "1", "--seed", "7"])["text"]
    assert shown.startswith(text + "\n")
    table = shown[len(text) :]
    assert "new tokens      12 after 5 of prompt, reached max-new-tokens, seed 7" in table
    for row in ("speed ", "mean accepted ", "by depth ", "exits ", "milliseconds ", "target alone ", "speed-up "):
        assert f"\n{row}" in table
    assert "tokens identical, scores bit for bit" in table


def test_a_tree_is_told_apart_from_an_exact_text(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    assert "but for ties" in output(capsys, [*usual, "--tree", "paper"])
    assert "but for ties" in output(capsys, [*usual, "--no-exact"])
    assert "but for ties" not in output(capsys, usual)


def test_without_a_draft_model_the_text_is_the_same(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    result = as_json(capsys, [*usual, "--draft", "none", "--verify"])
    assert result["tokens"] == as_json(capsys, usual)["tokens"]
    assert result["exit_counts"] == {}
    assert "draft model" not in output(capsys, [*usual, "--draft", "none"])


def test_measure_measures_again_and_says_so(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    main(usual)
    capsys.readouterr()
    main(usual)
    assert capsys.readouterr().err == ""
    main([*usual, "--measure"])
    assert capsys.readouterr().err == "measuring what calls cost on this machine ...\n"


def test_color_marks_the_drafted_text_and_changes_nothing_else(
    capsys: pytest.CaptureFixture[str], usual: list[str]
) -> None:
    text = as_json(capsys, usual)["text"]
    shown = output(capsys, [*usual, "--color", "--policy", "fixed"])
    assert "\033[32m" in shown
    assert re.sub(r"\033\[\d+m", "", shown).startswith(text)


def test_the_draft_and_its_options_do_not_change_the_text(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    sampled = [*usual, "--temperature", "0.8", "--top-k", "40", "--repetition-penalty", "1.1", "--seed", "5"]
    texts = {
        as_json(capsys, [*sampled, *options])["text"]
        for options in (
            [],
            ["--tree", "paper"],
            ["--thresholds", "1.1,1.1,0"],
            ["--thresholds", "0,0,0", "--tree-depth", "1"],
            ["--policy", "adaptive", "--tree-top-k", "2"],
            ["--tree", "paper", "--confidence", "max", "--tree-nodes", "9"],
        )
    }
    assert len(texts) == 1


def test_a_drawn_seed_repeats_the_text(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    first = as_json(capsys, [*usual, "--temperature", "1"])
    again = as_json(capsys, [*usual, "--temperature", "1", "--seed", str(first["seed"])])
    assert again["tokens"] == first["tokens"]


def test_a_prompt_file_is_the_prompt(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], usual: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("the draft", encoding="utf-8")
    from_file = as_json(capsys, [*engines_given, "--prompt-file", str(path)])
    assert from_file["tokens"] == as_json(capsys, usual)["tokens"]


def test_a_stop_string_ends_the_text(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    sampled = [*usual, "--temperature", "1", "--seed", "7"]
    text = as_json(capsys, sampled)["text"]
    stop = next(character for character in text[2:] if character != "\ufffd")
    stopped = as_json(capsys, [*sampled, "--stop", "never", "--stop", stop])
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_rules_on_the_text_are_options(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    rules = ["--logit-bias", "44=3", "--logit-bias", "7=-100", "--bad-word", "e", "--stop-token-id", "44"]
    rules += ["--frequency-penalty", "0.5", "--presence-penalty", "-0.5", "--min-tokens", "3", "--ignore-eos"]
    result = as_json(capsys, [*usual, *rules, "--baseline"])
    assert result["identical"]
    assert 7 not in result["tokens"]
    assert 44 not in result["tokens"][:3]
    assert result["tokens"] != as_json(capsys, usual)["tokens"]


def test_log_probabilities_are_part_of_the_json(capsys: pytest.CaptureFixture[str], usual: list[str]) -> None:
    result = as_json(capsys, [*usual, "--logprobs", "2", "--prompt-logprobs", "0"])
    assert set(result) == KEYS | {"logprobs", "prompt_logprobs"}
    assert [entry["token"] for entry in result["logprobs"]] == result["tokens"]
    for entry in result["logprobs"]:
        assert entry["top"][0] == {"token": entry["token"], "logprob": entry["logprob"]}
        assert len(entry["top"]) == 2
    assert result["prompt_logprobs"][0] is None
    assert len(result["prompt_logprobs"]) == result["prompt_tokens"]


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("--regex", "[0-9]{2}[a-f]", "[0-9]{2}[a-f]"),
        ("--choice", "the target", "the target|the draft"),
        ("--grammar", 'start: "a" | "bc"', "a|bc"),
        ("--json-schema", '{"enum": [12, 34]}', "12|34"),
    ],
)
def test_a_constraint_is_an_option(
    capsys: pytest.CaptureFixture[str], usual: list[str], tmp_path: Path, option: str, value: str, pattern: str
) -> None:
    if option in ("--grammar", "--json-schema"):
        (tmp_path / "rule").write_text(value)
        value = str(tmp_path / "rule")
    result = as_json(capsys, [*usual, option, value, *(["--choice", "the draft"] if option == "--choice" else [])])
    assert re.fullmatch(pattern, result["text"])
    assert result["finish_reason"] == "stop"


def mistake(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one line that a mistaken call prints; it prints nothing else and ends with 2."""
    with pytest.raises(SystemExit) as ended:
        run_command(PROG, main, argv)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"{PROG}: ")
    assert captured.err.endswith("\n")
    assert len(captured.err.splitlines()) == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--thresholds", "0.5,0.5"], "2 thresholds for 3 exits 2,4,6"),
        (["--thresholds", "a,b,c"], "not a list of numbers"),
        (["--policy", "adaptive", "--thresholds", "0,0,0"], "belong to the policy fixed"),
        (["--exact", "--tree", "paper"], "--exact drafts chains"),
        (["--tree-top-k", "17"], "above the 16 candidates"),
        (["--tree-nodes", "1"], "at least 2"),
        (["--tree-depth", "-1"], "tree depth -1"),
        (["--tree-depth", "8", "--tree-top-k", "8", "--tree-nodes", "300"], "at most 256 nodes"),
        (["--temperature", "0,1"], "one temperature"),
        (["--temperature", "-1"], "temperature -1"),
        (["--temperature", "warm"], "not a list of numbers"),
        (["--top-p", "0"], "top-p"),
        (["--top-k", "-1"], "top-k"),
        (["--min-p", "1"], "min-p"),
        (["--repetition-penalty", "0"], "repetition penalty"),
        (["--seed", "-1"], "seed -1"),
        (["--stop", ""], "stop string is empty"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--threads", "none"], "at least 1"),
        (["--tree", "bush"], "invalid choice"),
        (["--prompt-file", "x.txt"], "not allowed with"),
        (["--logit-bias", "3"], "'3' is not a token id and a number like 42=-1.5"),
        (["--logit-bias", "300=1"], "token id 300 is outside the vocabulary of 300"),
        (["--frequency-penalty", "3"], "frequency penalty 3.0"),
        (["--min-tokens", "13"], "min-tokens 13"),
        (["--bad-word", ""], "bad word is empty"),
        (["--logprobs", "2"], "add --json"),
        (["--regex", "(a"], "regular expression cannot be used"),
        (["--regex", "a", "--choice", "b"], "not allowed with"),
        (["--json-schema", "none.json"], "none.json cannot be read"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_a_wrong_option_is_one_line(
    capsys: pytest.CaptureFixture[str], usual: list[str], options: list[str], reason: str
) -> None:
    assert reason in mistake(capsys, [*usual, *options])


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("the tree " * 200, "holds 256 in all"), ("caf\udce9", "UTF-8")],
    ids=["too long", "not text"],
)
def test_a_prompt_that_cannot_be_answered_is_one_line(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], prompt: str, reason: str
) -> None:
    assert reason in mistake(capsys, [*engines_given, "--prompt", prompt])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.txt", None, "cannot be read (No such file"),
        ("folder", None, "cannot be read (it is not a regular file"),
        ("latin.txt", b"caf\xe9", "is not UTF-8 at byte 3"),
    ],
)
def test_a_bad_prompt_file_is_one_line(
    capsys: pytest.CaptureFixture[str],
    engines_given: list[str],
    tmp_path: Path,
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert reason in mistake(capsys, [*engines_given, "--prompt-file", str(tmp_path / name)])


def weights(bundle: Path) -> Path:
    return next(bundle.glob("weights*.bin"))


def truncate_weights(bundle: Path) -> None:
    weights(bundle).write_bytes(weights(bundle).read_bytes()[:-1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_manifest(bundle: Path, **changes: object) -> None:
    path = bundle / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no bundle named"),
        (truncate_weights, "bytes instead of"),
        (lambda bundle: flip(weights(bundle)), "does not match its hash"),
        (lambda bundle: flip(next(bundle.glob("*.onnx"))), "does not match its hash"),
        (lambda bundle: flip(next(bundle.glob("tokenizer-*.json"))), "does not match its hash"),
        (lambda bundle: weights(bundle).unlink(), "is missing from the bundle"),
        (lambda bundle: (bundle / MANIFEST).unlink(), "not a bundle"),
        (lambda bundle: (bundle / MANIFEST).write_text("{", encoding="utf-8"), "is damaged"),
        (lambda bundle: change_manifest(bundle, schema=99), "has schema 99"),
        (lambda bundle: change_manifest(bundle, model={}), "is damaged"),
        (lambda bundle: change_manifest(bundle, graphs={}), "build the bundle again"),
    ],
)
@pytest.mark.parametrize("part", ["target", "draft"])
def test_a_damaged_bundle_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str],
    usual: list[str],
    tmp_path: Path,
    part: str,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    option = usual.index(f"--{part}") + 1
    copy = tmp_path / "copied.engine"
    shutil.copytree(usual[option], copy)
    damage(copy)
    usual[option] = str(copy)
    line = mistake(capsys, usual)
    assert reason in line
    assert "copied.engine" in line


def test_draft_and_target_in_each_others_place_are_one_line(
    capsys: pytest.CaptureFixture[str], usual: list[str], draft_bundle: Path, target_bundle: Path
) -> None:
    assert "is a draft bundle where a target is needed" in mistake(capsys, [*usual, "--target", str(draft_bundle)])
    assert "is a target bundle where a draft is needed" in mistake(capsys, [*usual, "--draft", str(target_bundle)])


def test_a_target_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--target" in mistake(capsys, ["--prompt", "the draft"])


def test_debug_shows_where_an_error_arose(usual: list[str]) -> None:
    from s2d_trt.errors import OptionError

    with pytest.raises(OptionError):
        run_command(PROG, main, [*usual, "--thresholds", "0.5", "--debug"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--device-cascade"], "--device-cascade is for TensorRT"),
        (["--no-cuda-graphs"], "--no-cuda-graphs is for TensorRT"),
        (["--threads", "10000"], "--threads 10000 must lie between 1 and the"),
        (["--thresholds", "nan,inf,0"], "'nan,inf,0' is not a list of numbers"),
        (["--top-k", "1000000000000000000000"], "top-k 1000000000000000000000"),
        (["--temperature", "inf"], "is not a list of numbers"),
        (["--top-p", "nan"], "top-p nan"),
        (["--draft", "x" * 300], "File name too long"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value[0],
)
def test_an_option_that_means_nothing_here_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], usual: list[str], arguments: list[str], reason: str
) -> None:
    assert reason in mistake(capsys, [*usual, *arguments])


@pytest.mark.parametrize("kind", ["pipe", "folder", "/dev/zero", "/dev/null", "x" * 300, "link", "large"])
def test_a_prompt_file_of_another_kind_is_one_line(
    capsys: pytest.CaptureFixture[str], usual: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("/dev/zero")
    with Path("large").open("wb") as file:
        file.truncate(2**29)
    mistake(capsys, [*usual[: usual.index("--prompt")], "--prompt-file", kind])


def test_a_prompt_file_may_be_a_pipe_of_the_shell(usual: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"the draft")
    os.close(writing)
    at = usual.index("--prompt")
    main([*usual[:at], *usual[at + 2 :], "--prompt-file", f"/dev/fd/{reading}", "--json"])
    os.close(reading)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prompt_tokens"] > 1
