"""The README's picture: made from the bench's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2d_trt.errors import OptionError
from tests.benchmarks.picture import main
from tests.benchmarks.serving.picture import main as load_main

RESULT = {
    "target": "target-17m",
    "temperature": 0,
    "prompts": 48,
    "bit_identical": 47,
    "speedup": 2.5,
    "tokens_per_second": {"alone": 100.0, "s2d": 250.0},
}


def test_the_picture_states_speed_up_and_identical_outputs_as_text(tmp_path: Path) -> None:
    results, out = tmp_path / "out.json", tmp_path / "speedup.svg"
    results.write_text(json.dumps([RESULT]), encoding="utf-8")
    main([str(results), str(out)])
    drawn = out.read_text(encoding="utf-8")
    assert all(text in drawn for text in ("2.50x", "47/48 bit-identical", "target-17m", "greedy"))
    again = tmp_path / "again.svg"
    main([str(results), str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_a_file_that_the_bench_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        main([str(tmp_path / "missing.json"), str(tmp_path / "out.svg")])


def aiperf_report(folder: Path, name: str, speed: float, first_ms: float) -> None:
    report = {"output_token_throughput": {"avg": speed}, "time_to_first_token": {"p50": first_ms}}
    (folder / name).mkdir()
    (folder / name / "profile_export_aiperf.json").write_text(json.dumps(report), encoding="utf-8")


def test_the_picture_of_a_load_states_the_ratio_at_each_number_of_clients(tmp_path: Path) -> None:
    for clients in (1, 8):
        aiperf_report(tmp_path, f"off-{clients}", 10.0 * clients, 900.0)
        aiperf_report(tmp_path, f"on-{clients}", 17.5 * clients, 800.0)
    load_main([str(tmp_path), str(tmp_path / "load.svg")])
    drawn = (tmp_path / "load.svg").read_text(encoding="utf-8")
    assert drawn.count("1.75x") >= 2
    assert all(text in drawn for text in ("with drafting", "without drafting", "seconds to the first token"))


def test_a_load_without_its_other_half_is_refused(tmp_path: Path) -> None:
    aiperf_report(tmp_path, "on-1", 10.0, 900.0)
    with pytest.raises(OptionError, match="needs on-N and off-N"):
        load_main([str(tmp_path), str(tmp_path / "load.svg")])
