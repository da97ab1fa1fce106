"""The command that generates: one line for every mistake, with its cause and its remedy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.run import PROG, main
from s2d_trt.cli import run_command
from s2d_trt.manifest import MANIFEST
from tests.mistakes import mistake


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
        (["--lanes", "4"], "--lanes is the number of texts of --prompts"),
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
    assert reason in mistake(capsys, PROG, main, [*usual, *options])


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("the tree " * 200, "holds 256 in all"), ("caf\udce9", "UTF-8")],
    ids=["too long", "not text"],
)
def test_a_prompt_that_cannot_be_answered_is_one_line(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], prompt: str, reason: str
) -> None:
    assert reason in mistake(capsys, PROG, main, [*engines_given, "--prompt", prompt])


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
    assert reason in mistake(capsys, PROG, main, [*engines_given, "--prompt-file", str(tmp_path / name)])


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
    line = mistake(capsys, PROG, main, usual)
    assert reason in line
    assert "copied.engine" in line


def test_draft_and_target_in_each_others_place_are_one_line(
    capsys: pytest.CaptureFixture[str], usual: list[str], draft_bundle: Path, target_bundle: Path
) -> None:
    assert "is a draft bundle where a target is needed" in mistake(
        capsys, PROG, main, [*usual, "--target", str(draft_bundle)]
    )
    assert "is a target bundle where a draft is needed" in mistake(
        capsys, PROG, main, [*usual, "--draft", str(target_bundle)]
    )


def test_a_target_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--target" in mistake(capsys, PROG, main, ["--prompt", "the draft"])


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
        (["--draft", "x" * 300], "no bundle named xxx"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value[0],
)
def test_an_option_that_means_nothing_here_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], usual: list[str], arguments: list[str], reason: str
) -> None:
    assert reason in mistake(capsys, PROG, main, [*usual, *arguments])


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
    mistake(capsys, PROG, main, [*usual[: usual.index("--prompt")], "--prompt-file", kind])
