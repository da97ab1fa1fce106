"""The README's picture: made from the bench's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2d_trt.errors import OptionError
from tests.benchmarks.picture import main

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
