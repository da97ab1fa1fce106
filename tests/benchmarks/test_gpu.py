"""The benchmark of a GPU, on the stand-in: every table is filled, and what cannot be measured is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.cpu.backend import OnnxRuntime
from runtime.backends.placement import Placement
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from tests.benchmarks import gpu as benchmark


@pytest.fixture
def on_the_stand_in(monkeypatch: pytest.MonkeyPatch, gpu: Any, backend: Any) -> None:
    """What is asked of a GPU goes to the stand-in, and the reference to the CPU."""

    def open_backend(place: Placement, bundle: Bundle) -> Any:
        return backend if place.device is not None else OnnxRuntime(1)

    monkeypatch.setattr(Placement, "open_backend", open_backend)
    monkeypatch.setattr(benchmark, "open_gpu", lambda index: gpu)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)


@pytest.mark.usefixtures("on_the_stand_in")
def test_one_run_fills_every_table(draft_bundle: Path, target_bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "the draft proposes"}) + "\n")
    pair, out = f"{target_bundle},{draft_bundle}", tmp_path / "report"
    choice = ["--pair", pair, "--reference", str(target_bundle), "--prompts", str(prompts), "--max-new-tokens", "9"]
    benchmark.main([*choice, "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["machine"]["GPU"] == "the host, compute capability 0.0"
    assert report["numbers"][0]["largest difference"] < 1e-4
    assert report["numbers"][0]["same choice"] == "10/10"
    assert [row["engine"] for row in report["calls"]] == ["verify", "head", "segment 0", "segment 1", "segment 2"]
    assert {(row["tree"], row["exits"]) for row in report["drafting"]} == {
        (tree, exits) for tree in ("chain", "paper") for exits in ("first", "all")
    }
    assert [row["identical"] for row in report["outputs"]] == ["1/1"] * 4
    assert [row["identical"] for row in report["exact"]] == ["1/1"] * 2
    assert out.with_suffix(".md").read_text().count("\n## ") == 5


@pytest.mark.usefixtures("on_the_stand_in")
@pytest.mark.parametrize("static_bundles", ["fp32"], indirect=True)
def test_texts_that_share_a_call_are_timed_against_texts_that_take_turns(
    static_bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    draft, target = static_bundles
    benchmark.main(["--pair", f"{target},{draft}", "--calls-only", "--out", str(tmp_path / "report")])
    rows = json.loads((tmp_path / "report.json").read_text())["together"]
    assert [(row["texts"], row["rows of each"]) for row in rows] == [(2, 1), (2, 4), (4, 1), (4, 4), (8, 1), (8, 4)]
    assert all(row["one call ms"] > 0 and row["in turn ms"] > 0 for row in rows)


@pytest.mark.usefixtures("on_the_stand_in")
def test_random_weights_are_timed_without_text(draft_bundle: Path, target_bundle: Path, tmp_path: Path) -> None:
    pair, out = f"{target_bundle},{draft_bundle}", tmp_path / "shapes"
    benchmark.main(["--pair", pair, "--calls-only", "--out", str(out)])
    assert set(json.loads(out.with_suffix(".json").read_text())) == {"machine", "calls", "drafting"}


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (["--pair", "a,b", "--out", "/no/such/folder/x"], "folder does not exist"),
        (["--pair", "a,b", "--device", "cpu", "--out", "x"], "this measures a GPU"),
    ],
)
def test_a_mistake_is_one_line(choice: list[str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        benchmark.main(choice)


@pytest.mark.usefixtures("on_the_stand_in")
def test_a_pair_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is not TARGET,DRAFT"):
        benchmark.main(["--pair", "target", "--out", str(tmp_path / "x")])
