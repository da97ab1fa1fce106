"""A matrix is measured cell by cell, goes on where it was stopped, and its runs are compared."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import evaluate
from runtime.drafting.options import Policy
from runtime.drafting.profile import Profile
from runtime.evaluation.matrix.comparing import Gates, broken_gates, changes, pair_runs
from runtime.evaluation.matrix.figures import acceptance_by_depth, calibration, categories, mean_accepted, speedup
from runtime.evaluation.matrix.measuring import BINS, trimmed
from runtime.evaluation.matrix.plan import Matrix
from runtime.evaluation.matrix.runs import Journal, Run, read_runs
from runtime.evaluation.matrix.spec_bench import answer_lines
from s2d_trt.cli import run_command
from s2d_trt.errors import OptionError

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["the draft", " and the target"]},
    {"question_id": 82, "category": "math", "turns": ["a tree of tokens"]},
    {"question_id": 90, "category": "qa", "turns": ["the other one"]},
    {"question_id": 91, "category": "summarization", "turns": ["the " * 400]},
]


@pytest.fixture(scope="module")
def matrix_file(tmp_path_factory: pytest.TempPathFactory, draft_bundle: Path, target_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    path = folder / "matrix.toml"
    path.write_text(
        f'targets = ["{target_bundle}"]\ndrafts = ["{draft_bundle}"]\nprompts = "{folder / "q.jsonl"}"\n'
        "texts = [1, 2]\nmax_new_tokens = 12\nthreads = 1\nrounds = 2\n"
        "[policies.published]\nthresholds = [0.5, 0.5, 0]\n"
    )
    return path


@pytest.fixture(scope="module")
def runs_folder(matrix_file: Path) -> Path:
    out = matrix_file.parent / "runs"
    assert evaluate.main([str(matrix_file), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def runs(runs_folder: Path) -> list[Run]:
    return sorted(read_runs(runs_folder), key=lambda run: run.settings["texts"])


def fixed_parts(folder: Path) -> list[Any]:
    """What does not depend on the time of day."""
    kept = ("key", "category", "question_id", "prompt_tokens", "exact", "identical", "bit_identical", "texts")
    return [
        (run.cell, run.skipped, [{name: unit.get(name) for name in kept} | {
            side: {part: unit[side].get(part) for part in ("tokens", "accept_lengths", "new_tokens", "exits")}
            for side in ("drafted", "alone")} for unit in run.units])
        for run in read_runs(folder)
    ]  # fmt: skip


def test_a_run_file_holds_every_turn_of_every_round_and_where_it_was_measured(runs: list[Run]) -> None:
    single, together = runs
    assert [unit["key"] for unit in single.units] == [
        "0/0/0",
        "0/0/1",
        "0/1/0",
        "0/2/0",
        "1/0/0",
        "1/0/1",
        "1/1/0",
        "1/2/0",
    ]
    assert [unit["key"] for unit in together.units] == ["0", "1"]
    assert single.skipped == {"summarization": 1}
    assert {"revision", "processor", "cores", "packages", "bundles", "version"} <= single.environment.keys()
    assert set(single.environment["bundles"]) == {"target", "draft"}
    assert all(unit["identical"] and unit["bit_identical"] for unit in single.units)


def test_figures_have_an_interval_and_pool_the_steps(runs: list[Run]) -> None:
    single = runs[0]
    interval = speedup(single)
    assert 0 < interval.low <= interval.value <= interval.high
    lengths = [length for unit in single.units for length in unit["drafted"]["accept_lengths"]]
    assert mean_accepted(single) == pytest.approx(sum(lengths) / len(lengths))
    assert categories(single) == ["mt_bench", "qa"]
    assert all(0 <= share <= 1 for share in acceptance_by_depth(single))
    assert all(0 <= observed <= 1 and count > 0 for _, observed, count in calibration(single))


def test_what_was_measured_is_not_measured_again(
    matrix_file: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("runtime.evaluation.matrix.sweeping.Decoder.open", never)
    assert evaluate.main([str(matrix_file), "--out", str(runs_folder)]) == 0
    assert "speed-up" in capsys.readouterr().out


def test_a_killed_measurement_goes_on_and_ends_with_the_same_result(
    matrix_file: Path, runs_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "runtime.evaluate", str(matrix_file), "--out", str(tmp_path)]
    rng, kills = random.Random(3), 0
    while kills < 2:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ) as process:
            assert process.stderr is not None
            for _ in range(rng.randint(1, 3)):  # lines of progress
                process.stderr.readline()
            process.send_signal(signal.SIGKILL)
        kills += 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert fixed_parts(tmp_path) == fixed_parts(runs_folder)
    assert not list(tmp_path.glob("*.journal"))


def test_a_journal_cut_anywhere_loses_only_its_last_unit(tmp_path: Path) -> None:
    path = tmp_path / "cell.journal"
    journal = Journal(path)
    for number in range(3):
        journal.add({"key": str(number), "value": "é" * number})
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == 10]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        assert len(Journal(path).units) == sum(end <= cut for end in ends)
        Journal(path).add({"key": "again"})
        assert "again" in Journal(path).units


def test_a_full_disk_loses_nothing_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "cell.journal")
    journal.add({"key": "0"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.evaluation.matrix.runs.os.fsync", full)
    with pytest.raises(OptionError, match="No space left"):
        journal.add({"key": "1"})
    assert list(Journal(tmp_path / "cell.journal").units) == ["0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets = [", "not TOML"),
        ("", "targets are missing"),
        ('targets = ["t"]\ntemperature = 1', "unknown key 'temperature'"),
        ('targets = ["t"]\ntexts = [0]', "at least 1"),
        ('targets = ["t"]\ntemperatures = ["hot"]', "no list of the right kind"),
        ('targets = ["t"]\nrounds = 0', "at least 1"),
        ('targets = ["t"]\n[policies.x]\nthreshold = [1]', "policy x: unknown key 'threshold'"),
        ('targets = ["t"]\n[policies.x]\nkind = "magic"', "neither adaptive nor fixed"),
        ('targets = ["t"]\n[policies.x]\nprofile = "none.json"', "cannot be read"),
        ('targets = ["t"]\n[policies.x]\nprofile = "p"\nlookup = true', "leave the other keys out"),
    ],
)
def test_a_mistake_in_the_matrix_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        Matrix.read(path)


def test_cells_are_all_combinations_and_precisions_stand_in_names(tmp_path: Path) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(
        'targets = ["t-{precision}"]\ndrafts = ["d-{precision}"]\nprecisions = ["fp32", "int8"]\n'
        "temperatures = [0, 1]\ntexts = [1, 4]\n[policies.a]\n[policies.b]\nkind = 'fixed'\n"
    )
    matrix = Matrix.read(path)
    cells = list(matrix.cells())
    assert len(cells) == 16
    assert cells[0].engines == ("t-fp32", "d-fp32")
    assert len({matrix.key(cell) for cell in cells}) == 16


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}'])
def test_a_torn_run_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(OptionError, match="delete it and measure again"):
        read_runs(tmp_path)


def test_changed_bundles_are_not_mixed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "cell.journal")
    journal.in_environment({"bundles": {"target": "a"}, "time": "then"})
    assert Journal(journal.path).in_environment({"bundles": {"target": "a"}, "time": "now"})["time"] == "then"
    with pytest.raises(OptionError, match="other bundles"):
        Journal(journal.path).in_environment({"bundles": {"target": "b"}})


def test_a_profile_of_another_pair_is_refused(matrix_file: Path, tmp_path: Path) -> None:
    Profile("another target", "another draft", Policy(), True).write(tmp_path / "profile.json")
    text = matrix_file.read_text().replace("thresholds = [0.5, 0.5, 0]", f'profile = "{tmp_path / "profile.json"}"')
    (tmp_path / "matrix.toml").write_text(text)
    with pytest.raises(OptionError, match="tuned for another target"):
        evaluate.main([str(tmp_path / "matrix.toml"), "--out", str(tmp_path / "runs")])


@pytest.mark.parametrize(
    "entry",
    [
        "thresholds = 0.5",
        'thresholds = ["a"]',
        'depth = "deep"',
        'lookup = "yes"',
        "exact = 1",
        "kind = 3",
        "profile = 3",
    ],
)
def test_a_policy_with_a_value_of_the_wrong_kind_is_named(tmp_path: Path, entry: str) -> None:
    (tmp_path / "m.toml").write_text(f'targets = ["t"]\n[policies.mine]\n{entry}\n')
    with pytest.raises(OptionError, match="policy mine"):
        Matrix.read(tmp_path / "m.toml")


def test_braces_in_a_name_are_part_of_it() -> None:
    (cell,) = Matrix(targets=("t{0}-{precision}",), drafts=("d{",), precisions=("int8",)).cells()
    assert cell.engines == ("t{0}-int8", "d{")


# Comparing


TEXT: dict[str, Any] = {
    "text": "", "tokens": [], "accept_lengths": [], "exits": {}, "drafted_at_depth": [], "accepted_at_depth": [],
    "parts": {"prefill": 0.0, "draft": 0.0, "verify": 0.0, "other": 0.0},
}  # fmt: skip


def invented(factor: float, identical: bool = True, noise: float = 0.0) -> Run:
    rng = random.Random(1)
    units = [
        {
            "key": f"0/{index}/0", "category": f"file {index % 6}", "exact": False, "identical": identical,
            "bit_identical": identical, "question_id": None, "reliability": [[0.0] * 3] * BINS,
            "drafted": TEXT | {"new_tokens": 100, "seconds": 1.0 / (factor * (1 + noise * rng.uniform(-1, 1)))},
            "alone": TEXT | {"new_tokens": 100, "seconds": 2.0},
        }
        for index in range(24)
    ]  # fmt: skip
    settings = {"target": "t", "draft": "d", "precision": "", "temperature": 0.0, "policy": "default", "texts": 1}
    return Run(settings, {"time": "now", "bundles": {}}, units)


@pytest.mark.parametrize(("factor", "words"), [(1.2, "faster"), (0.8, "slower"), (1.0, "no change beyond noise")])
def test_a_change_beyond_noise_is_named(factor: float, words: str) -> None:
    change = next(changes(invented(1.0, noise=0.05), invented(factor)))
    assert words in str(change)
    assert change.ratio.value == pytest.approx(factor, rel=0.05)


def test_a_loss_breaks_the_gate_and_a_gain_does_not() -> None:
    assert broken_gates([(invented(1.0), invented(0.9))], Gates())
    assert not broken_gates([(invented(1.0), invented(0.99))], Gates())
    assert not broken_gates([(invented(1.0), invented(1.5))], Gates())


def test_texts_that_are_no_longer_identical_break_the_gate() -> None:
    (reason,) = broken_gates([(invented(1.0), invented(1.0, identical=False))], Gates())
    assert "0 of 24 texts identical, 24 of 24 before" in reason


def test_one_category_that_is_slower_breaks_the_gate() -> None:
    slow = invented(1.0)
    for unit in slow.units:
        if unit["category"] == "file 2":
            unit["drafted"]["seconds"] *= 1.1
    assert any("file 2" in reason for reason in broken_gates([(invented(1.0), slow)], Gates(target=0.1)))


def test_runs_without_anything_in_common_are_refused() -> None:
    other = invented(1.0)
    other.settings["policy"] = "published"
    with pytest.raises(OptionError, match="in common"):
        pair_runs([invented(1.0)], [other])
    with pytest.raises(OptionError, match="two runs"):
        pair_runs([invented(1.0), invented(1.0)], [other])


def test_the_command_compares_and_says_so_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, run in (("old", invented(1.0)), ("new", invented(0.5))):
        (tmp_path / name).mkdir()
        run.write(tmp_path / name / "run.json")
    assert evaluate.main(["compare", str(tmp_path / "old"), str(tmp_path / "old")]) == 0
    assert evaluate.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    assert "FAILED" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run_command(evaluate.PROG, evaluate.main, ["compare", str(tmp_path / "none"), str(tmp_path / "new")])


# Spec-Bench


@pytest.mark.parametrize(
    ("lengths", "new_tokens", "expected"),
    [([3, 2, 4], 10, [3, 2, 4]), ([3, 2, 4], 8, [3, 2, 2]), ([3, 2, 4], 6, [3, 2]), ([5], 1, []), ([], 1, [])],
)
def test_accept_lengths_end_with_the_text(lengths: list[int], new_tokens: int, expected: list[int]) -> None:
    assert trimmed(lengths, new_tokens) == expected
    assert 1 + sum(expected) == new_tokens


def test_answers_are_in_spec_benchs_format(runs_folder: Path, runs: list[Run], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in answer_lines(runs[0], "drafted")]
    assert [line["question_id"] for line in lines] == [81, 82, 90]
    first = lines[0]
    assert len(first["choices"]) == 2  # rounds
    choice = first["choices"][0]
    assert len(choice["turns"]) == len(choice["new_tokens"]) == len(choice["wall_time"]) == 2
    assert sum(choice["accept_lengths"]) + 2 == sum(choice["new_tokens"])
    evaluate.main(["answers", str(runs_folder), "--out", str(tmp_path)])
    drafted, alone = sorted(tmp_path.glob("*.jsonl"), key=lambda path: "alone" in path.name)
    same = zip(*(path.read_text().splitlines() for path in (drafted, alone)), strict=True)
    assert all(json.loads(a)["choices"][0]["turns"] == json.loads(b)["choices"][0]["turns"] for a, b in same)


def test_a_run_with_the_same_cell_keeps_its_name_when_paths_change(runs: list[Run]) -> None:
    moved = replace(
        runs[0], settings=runs[0].settings | {"target": "/elsewhere/" + Path(runs[0].settings["target"]).name}
    )
    assert moved.cell == runs[0].cell
