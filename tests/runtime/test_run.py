"""The command that generates: its output, its JSON, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.run import main

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


def test_a_prompt_file_may_be_a_pipe_of_the_shell(usual: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"the draft")
    os.close(writing)
    at = usual.index("--prompt")
    main([*usual[:at], *usual[at + 2 :], "--prompt-file", f"/dev/fd/{reading}", "--json"])
    os.close(reading)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prompt_tokens"] > 1
