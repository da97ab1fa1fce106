"""The comparison with peers: our own side for real, the protocol against real processes, failures as rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2d_trt.errors import CheckpointError
from tests.benchmarks.peers import __main__ as command
from tests.benchmarks.peers import artefacts
from tests.benchmarks.peers.artefacts import Artefact, Checkpoint
from tests.benchmarks.peers.catalogue import OURS, Contender, Pair, ours, transformers
from tests.benchmarks.peers.environment import Environment
from tests.benchmarks.peers.measure import Answer, Job, Outcome, measure, prepare
from tests.benchmarks.peers.process import PeerError, Worker, run_to_end
from tests.benchmarks.peers.result import best_modes, rows
from tests.mistakes import mistake

COUNTER = """
def convert(job):
    from pathlib import Path
    (Path(job["out"]) / "made").write_text(job["source"])

def open_mode(mode):
    print("noise on stdout")
    if mode.get("refuses"):
        raise ValueError("no such mode")
    def generate(prompt, new_tokens, temperature, seed):
        if mode.get("dies"):
            import os, sys
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if mode.get("sleeps"):
            import time
            time.sleep(60)
        return [prompt[-1] + step + 1 for step in range(new_tokens)], {"threads": mode["threads"]}
    return generate
"""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that counts on from the prompt's last token, for the worker to import."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "counter.py").write_text(COUNTER, encoding="utf-8")
    monkeypatch.setattr(artefacts, "ROOT", folder)
    monkeypatch.setattr("tests.benchmarks.peers.catalogue.ROOT", folder)
    return "counter"


def contender(adapter: str, mode: str = "alone", peer: str = OURS, **options: Any) -> Contender:
    return Contender(peer, "fp32", mode, adapter, None, {}, options)


JOB = Job([[5], [7]], new_tokens=3, threads=2, timeout=20)


def test_a_worker_answers_whatever_a_library_prints(adapter: str) -> None:
    outcome = Outcome(contender(adapter))
    measure([outcome], JOB, rounds=2)
    assert not outcome.failure
    assert outcome.tokens == [[6, 7, 8], [8, 9, 10]]
    assert len(outcome.rounds) == 2
    assert outcome.figure("threads") == 2
    assert outcome.speed > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"refuses": True}, "no such mode"), ({"dies": True}, "ended with 3: out of luck")],
)
def test_who_fails_keeps_the_reason_and_the_others_go_on(adapter: str, options: dict[str, Any], reason: str) -> None:
    outcomes = [Outcome(contender(adapter, "first", **options)), Outcome(contender(adapter, "second"))]
    measure(outcomes, JOB, rounds=2)
    assert reason in outcomes[0].failure
    assert not outcomes[0].rounds
    assert len(outcomes[1].rounds) == 2


def test_an_answer_that_does_not_come_is_a_failure(adapter: str) -> None:
    outcome = Outcome(contender(adapter, sleeps=True))
    measure([outcome], Job([[1]], 3, 1, timeout=1), rounds=1)
    assert outcome.failure == "no answer within 1 s"


def test_closing_a_worker_ends_what_it_started() -> None:
    script = "import subprocess; child = subprocess.Popen(['sleep', '60']);"
    script += "print('{\"pid\": %d}' % child.pid, flush=True); child.wait()"
    worker = Worker([sys.executable, "-c", script])
    child = worker.ask({}, timeout=20)["pid"]
    assert Path(f"/proc/{child}").exists()
    worker.close()
    assert _becomes(lambda: not _runs(child))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_ended_leaves_no_orphan(ending: signal.Signals, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from tests.benchmarks.peers.process import ending_children, run_to_end\n"
    script += f"with ending_children(): run_to_end(['sh', '-c', 'echo $$ > {note}; sleep 60'])"
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    assert _becomes(lambda: note.exists() and note.read_text().endswith("\n"))
    child = int(note.read_text())
    parent.send_signal(ending)
    assert parent.wait(timeout=20) != 0
    assert _becomes(lambda: not _runs(child))


def _becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return reached


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("line", "reason"), [("not json", "not an answer: not json"), ('{"error": "a\\nb"}', "a b")])
def test_what_is_no_answer_is_a_failure(line: str, reason: str) -> None:
    worker = Worker([sys.executable, "-c", f"print({line!r}, flush=True); input()"])
    try:
        with pytest.raises(PeerError, match=reason):
            worker.ask({}, timeout=20)
    finally:
        worker.close()


def test_a_program_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(PeerError, match="cannot be started"):
        run_to_end(["/nowhere/python"])


def test_an_install_that_fails_is_a_row_for_every_mode(tmp_path: Path, own_cache: None) -> None:
    nowhere = Environment("nowhere", ("--no-index", "--find-links", str(tmp_path), "no-such-package==1"))
    broken = [Contender("nowhere", "fp32", mode, "counter", nowhere, {}) for mode in ("alone", "draft")]
    outcomes = prepare(broken)
    assert all("nowhere cannot be installed (ERROR: No matching distribution" in each.failure for each in outcomes)
    assert not list(nowhere.directory.parent.glob("*nowhere*"))
    table = rows(outcomes, [[1]], 0.0, lambda *_: 0.0)
    assert [row["tokens/s"][:7] for row in table] == ["failed:"] * 2


def test_an_artefact_is_made_once_and_again_when_its_source_changes(tmp_path: Path, adapter: str) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    job = json.dumps({"source": "{source}", "out": "{out}"})
    path = artefacts.ROOT / "counter.py"
    script = "import json, runpy, sys; runpy.run_path(sys.argv[1])['convert'](json.loads(sys.argv[2]))"
    made = Artefact("thing", Checkpoint(source), (sys.executable, "-c", script, str(path), job))
    made.make()
    first = made.directory
    assert (first / "made").read_text() == str(source)
    assert (first / "tokenizer.json").is_file()
    before = (first / "made").stat().st_mtime_ns
    made.make()
    assert (first / "made").stat().st_mtime_ns == before
    (source / "config.json").write_text("{}")
    assert made.directory != first


def test_an_artefact_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    script = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'half').touch(); sys.exit('broken')"
    broken = Artefact("broken", Checkpoint(source), (sys.executable, "-c", script, "{out}"))
    with pytest.raises(PeerError, match="broken"):
        broken.make()
    assert not list(broken.directory.parent.glob("*broken-*"))


def test_a_command_that_writes_nothing_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    silent = Artefact("silent", Checkpoint(tmp_path / "checkpoint"), (sys.executable, "-c", ""))
    with pytest.raises(PeerError, match="silent wrote nothing"):
        silent.make()
    assert not silent.directory.exists()


def outcome(peer: str, mode: str, speed: float, tokens: list[int], precision: str = "fp32") -> Outcome:
    answers = [Answer(tokens, len(tokens) / speed, {})]
    return Outcome(Contender(peer, precision, mode, "", None, {}), [answers, answers])


def test_ratios_agreement_and_ties() -> None:
    alone, drafted = outcome(OURS, "alone", 10, [1, 2, 3]), outcome(OURS, "S2D", 20, [1, 2, 3])
    tied, other = outcome("peer", "alone", 5, [1, 2, 4]), outcome("peer", "draft", 8, [1, 9, 9])
    margins = {4: 1e-5, 9: 0.5}

    def margin(prompt: list[int], one: list[int], two: list[int]) -> float:
        return margins[next(a for a, b in zip(one, two, strict=True) if a != b)]

    everybody = [alone, drafted, tied, other]
    found = rows(everybody, [[0]], 0.0, margin)
    assert [row["S2D fp32 over it"] for row in found] == pytest.approx([2.0, 1.0, 4.0, 2.5])
    assert [row["over its target alone"] for row in found] == pytest.approx([1.0, 2.0, 1.0, 1.6])
    assert [row["same as fp32"] for row in found] == ["1/1", "1/1", "0/1 and 1 ties", "0/1"]
    assert "same as fp32" not in rows(everybody, [[0]], 1.0, margin)[0]
    best = best_modes(everybody)
    assert [(row["weights"], row["ours over it"]) for row in best] == [("fp32", 2.5), ("any", 2.5)]


def test_a_run_that_is_interrupted_keeps_what_it_has(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.benchmarks.peers.report.read_bandwidth", lambda threads: 1e9)
    shown: list[str] = []

    def interrupt(line: str) -> None:
        shown.append(line)
        if len(shown) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "progress", interrupt)
    pair = ["--target", str(checkpoints["target"]), "--draft", str(checkpoints["draft"])]
    more = ["--peers", "none", "--precisions", "fp32", "--limit", "1", "--max-new-tokens", "4", "--threads", "1"]
    with pytest.raises(KeyboardInterrupt):
        command.main([*pair, *more, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "peers.json").read_text())
    alone, drafted = report["temperatures"]["0"]["tables"]["temperature 0"]
    assert alone["tokens/s"] > 0
    assert drafted["tokens/s"] == "not measured"


def test_a_pair_names_its_exits(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    pair = Pair.open(checkpoints["target"], checkpoints["draft"])
    assert pair.exits == (2, 4, 6)
    assert pair.truncated(6) == pair.draft
    assert [each.mode for each in transformers(pair)] == [
        "alone", "assistant, exit 2", "assistant, exit 6", "early exit 2", "prompt lookup",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="names no exits"):
        Pair.open(checkpoints["draft"], checkpoints["target"])
    with pytest.raises(CheckpointError, match="no Hugging Face directory"):
        Pair.open(tmp_path, checkpoints["draft"])


def test_our_side_from_checkpoints_to_tables(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.benchmarks.peers.report.read_bandwidth", lambda threads: 1e9)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the draft proposes"}\n{"prompt": "a tree of"}\n', encoding="utf-8")
    given = ["--target", str(checkpoints["target"]), "--draft", str(checkpoints["draft"]), "--prompts", str(prompts)]
    given += ["--peers", "none", "--precisions", "fp32", "--max-new-tokens", "8", "--rounds", "1", "--threads", "1"]
    out = tmp_path / "out"
    command.main([*given, "--out", str(out)])
    report = json.loads((out / "peers.json").read_text())
    table = report["temperatures"]["0"]["tables"]["temperature 0"]
    assert [(row["mode"], row["same as fp32"]) for row in table] == [("alone", "2/2"), ("S2D", "2/2")]
    assert all(row["tokens/s"] > 0 for row in table)
    assert "## temperature 0" in (out / "peers.md").read_text()
    assert "ms to read the weights" in capsys.readouterr().out
    assert [each.name for each in ours(Pair.open(checkpoints["target"], checkpoints["draft"]), ("int8",))] == [
        "s2d-trt int8 alone",
        "s2d-trt int8 S2D",
    ]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (["--target", "nowhere"], "nowhere is no Hugging Face directory"),
        (["--peers", "nobody"], "--peers nobody is none of"),
        (["--precisions", "fp3"], "--precisions fp3 is none of"),
        (["--temperature", "-1"], "a temperature is below 0"),
        (["--max-new-tokens", "100000"], "no prompt leaves room"),
        (["--texts", "1,0"], "--texts names a number below 1"),
        (["--texts", "2,3", "--limit", "2"], "2 prompts do not make groups of 3"),
    ],
)
def test_a_mistake_is_one_line(
    choice: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoints: dict[str, Path]
) -> None:
    given = ["--target", str(checkpoints["target"]), "--draft", str(checkpoints["draft"]), "--out", str(tmp_path / "o")]
    assert reason in mistake(capsys, "peers", command.main, [*given, *choice])
    assert not (tmp_path / "o").exists()
