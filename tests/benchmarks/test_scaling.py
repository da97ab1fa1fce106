"""Scaling: every table on tiny bundles, and what counts as growing faster than linearly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export import target
from s2d_trt.bundle import Bundle
from tests.benchmarks import scaling
from tests.benchmarks.bandwidth import bytes_per_token, read_bandwidth
from tests.mistakes import mistake


def test_one_run_fills_every_table(
    draft_bundle: Path, target_bundle: Path, other_target_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "read_bandwidth", lambda threads: 1e9)
    targets = f"{target_bundle},{other_target_bundle}"
    given = ["--target", targets, "--draft", str(draft_bundle), "--threads", "1", "--repeats", "2"]
    scaling.main([*given, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["context"] for row in report["contexts"]] == [32, 64, 128, 232] * 2
    assert all(row["ms alone"] > 0 and row["ms S2D"] > 0 for row in report["contexts"])
    assert len(report["growth"]) == 4
    assert [row["rows"] for row in report["trees"]] == list(scaling.WIDTHS) * 2
    assert len(report["targets"]) == 2
    assert (tmp_path / "scaling.md").read_text().count("\n## ") == 4


@pytest.mark.parametrize("capacity", [32, 64, 100])
def test_a_target_shorter_than_the_widest_call_is_measured_at_the_rows_that_fit(
    capacity: int, target_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "read_bandwidth", lambda threads: 1e9)
    bundle = tmp_path / "short.engine"
    given = ["--checkpoint", str(target_checkpoint), "--out", str(bundle), "--no-parity"]
    target.main([*given, "--max-length", str(capacity)])
    scaling.main(["--target", str(bundle), "--threads", "1", "--repeats", "2", "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "scaling.json").read_text())
    room = capacity - min(scaling.CONTEXT, capacity // 2)
    assert [row["rows"] for row in report["trees"]] == [rows for rows in scaling.WIDTHS if rows <= room]
    assert len(report["growth"]) == 1


def test_lengths_double_up_to_the_capacity() -> None:
    assert scaling.lengths(512) == [32, 64, 128, 256, 488]
    assert scaling.lengths(40) == [16]


LENGTHS = [32, 64, 128, 256, 488]


@pytest.mark.parametrize(("power", "verdict"), [(0, "no"), (1, "no"), (2, "yes"), (3, "yes")])
def test_only_a_curve_is_faster_than_linear(power: int, verdict: str) -> None:
    times = np.array([[factor * (1 + (length / 488) ** power) for length in LENGTHS] for factor in (1, 1.1, 2, 3)])
    found = scaling.growth(LENGTHS, times)
    assert found["faster than linear"] == verdict
    assert (found["rise to the capacity"] in ("0%", "-0%")) == (power == 0)


def test_rounds_that_contradict_each_other_prove_nothing() -> None:
    curve = [1 + (length / 488) ** 2 for length in LENGTHS]
    assert "noise" in scaling.growth(LENGTHS, np.array([curve, [1.0] * 5] * 2))["faster than linear"]


def test_bandwidth_is_bytes_over_seconds() -> None:
    assert read_bandwidth(2, size=2**22) > 1e6


def test_a_table_that_is_only_looked_up_in_is_not_read(target_bundle: Path, other_target_bundle: Path) -> None:
    apart, tied = Bundle.open(target_bundle), Bundle.open(other_target_bundle)
    table = 300 * 64 * 4
    assert bytes_per_token(apart) == apart.manifest.files[apart.manifest.weights].bytes - table
    assert bytes_per_token(tied) == tied.manifest.files[tied.manifest.weights].bytes


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake(capsys, "scaling", scaling.main, ["--target", "nowhere", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
