"""The comparison with several texts in one call: groups, their figure, and the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.peers import __main__ as command
from tests.benchmarks.peers.catalogue import OURS, PEERS, Contender, Pair, batched
from tests.benchmarks.peers.measure import Answer, Job, Outcome, measure
from tests.benchmarks.peers.result import batch_tables

COUNTER = """
calls = []

def open_batch(mode):
    def generate(prompts, new_tokens, temperature, seeds):
        assert len(prompts) == len(seeds) <= mode["texts"]
        calls.append([len(prompts), new_tokens, seeds])
        return [[prompt[-1] + step + 1 for step in range(new_tokens)] for prompt in prompts], {"calls": len(calls)}
    return generate
"""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that counts on from each prompt's last token, for the worker to import."""
    (tmp_path / "counter.py").write_text(COUNTER, encoding="utf-8")
    monkeypatch.setattr("tests.benchmarks.peers.catalogue.ROOT", tmp_path)
    return "counter"


def test_prompts_are_answered_in_groups(adapter: str) -> None:
    outcome = Outcome(Contender(OURS, "fp32", "alone", adapter, None, {}).at_once(2))
    measure([outcome], Job([[1, 5], [1, 7], [1, 9], [1, 2]], new_tokens=3, threads=1, timeout=20), rounds=2)
    assert not outcome.failure
    assert outcome.tokens == [[6, 7, 8], [8, 9, 10], [10, 11, 12], [3, 4, 5]]
    # One call to warm up and two groups a round, in a new process each round.
    assert [answer.figures["calls"] for answer in outcome.rounds[1]] == [2, 2, 3, 3]
    assert outcome.rounds[0][0].seconds == outcome.rounds[0][1].seconds


def test_the_warm_up_gives_no_prefix_to_reuse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[list[int]]] = []

    class Recorder:
        def ask(self, request: dict[str, list[list[int]]], timeout: float) -> dict[str, object]:
            if "open" in request:
                return {}
            asked.append(request["prompts"])
            return {"tokens": [[0]] * len(request["prompts"]), "seconds": 1.0, "figures": {}}

        def close(self) -> None:
            pass

    monkeypatch.setattr(Contender, "start", lambda self: Recorder())
    outcome = Outcome(Contender(OURS, "fp32", "alone", "", None, {}).at_once(2))
    measure([outcome], Job([[1, 5, 6], [1, 7, 8, 9]], new_tokens=1, threads=1), rounds=1)
    assert asked == [[[1, 6], [1, 8, 9]], [[1, 5, 6], [1, 7, 8, 9]]]


def outcome(texts: int, peer: str, mode: str, seconds: float, tokens: list[list[int]]) -> Outcome:
    answers = [Answer(each, seconds / len(tokens), {}) for each in tokens]
    return Outcome(Contender(peer, "fp32", mode, "", None, {}).at_once(texts), [answers, answers])


def test_the_speed_of_batches_is_all_tokens_over_all_time() -> None:
    uneven = outcome(2, OURS, "alone", 4.0, [[1, 2, 3, 4, 5, 6], [1, 2]])
    assert uneven.speeds == [2.0, 2.0]


def test_each_number_of_texts_has_a_table() -> None:
    texts = [[1, 2], [3, 4]]
    outcomes = [
        outcome(1, OURS, "alone", 4.0, texts), outcome(1, OURS, "S2D", 2.0, texts),
        outcome(1, "peer", "alone", 4.0, texts), outcome(2, OURS, "alone", 2.0, texts),
        outcome(2, OURS, "S2D", 1.0, texts), outcome(2, "peer", "alone", 0.5, [[1, 2], [3, 5]]),
    ]  # fmt: skip
    tables = batch_tables("t", outcomes, [[0], [0]], 0.0, lambda *_: 1.0)
    assert list(tables) == ["t, 1 at once", "t, 2 at once", "t: fastest modes"]
    assert [row["S2D fp32 over it"] for row in tables["t, 1 at once"]] == pytest.approx([2.0, 1.0, 2.0])
    batched = tables["t, 2 at once"]
    assert [row["over 1 at once"] for row in batched] == pytest.approx([2.0, 2.0, 8.0])
    assert [row["same as fp32"] for row in batched] == ["2/2", "2/2", "1/2"]
    assert [row["same as 1 at once"] for row in batched] == ["2/2", "2/2", "1/2"]
    fastest = [(row["texts"], row["ours over it"]) for row in tables["t: fastest modes"] if row["weights"] == "fp32"]
    assert fastest == [(1, pytest.approx(2.0)), (2, pytest.approx(0.5))]


def test_only_modes_that_batch_are_batched(checkpoints: dict[str, Path]) -> None:
    pair = Pair.open(checkpoints["target"], checkpoints["draft"])
    assert [each.name for each in batched(pair, PEERS, ("fp32",))] == [
        "s2d-trt fp32 alone",
        "s2d-trt fp32 S2D",
        "s2d-trt fp32 S2D, draft int8",
        "onnxruntime-genai fp32 alone",
        "openvino-genai fp32 alone",
        "openvino-genai fp32 draft, exit 2, 2 tokens",
        "openvino-genai fp32 draft, exit 2, 4 tokens",
    ]
    assert [each.name for each in batched(pair, (), ("int8",))] == ["s2d-trt int8 alone", "s2d-trt int8 S2D"]


def test_our_batches_are_our_single_texts(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the draft proposes"}\n{"prompt": "a tree of"}\n', encoding="utf-8")
    given = ["--target", str(checkpoints["target"]), "--draft", str(checkpoints["draft"]), "--prompts", str(prompts)]
    given += ["--peers", "none", "--precisions", "fp32", "--max-new-tokens", "8", "--rounds", "1", "--threads", "1"]
    command.main([*given, "--texts", "1,2", "--out", str(tmp_path / "out")])
    tables = json.loads((tmp_path / "out" / "peers.json").read_text())["temperatures"]["0"]["tables"]
    table = tables["temperature 0, 2 at once"]
    assert [(row["mode"], row["same as fp32"], row["same as 1 at once"]) for row in table] == [
        ("alone", "2/2", "2/2"),
        ("S2D", "2/2", "2/2"),
        ("S2D, draft int8", "2/2", "2/2"),
    ]
