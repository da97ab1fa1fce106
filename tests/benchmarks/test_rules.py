"""Text under rules and under a suite's schemas, measured on tiny bundles."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from s2d_trt.errors import OptionError
from tests.benchmarks import rules, schemas


def test_every_rule_is_measured_and_identical(draft_bundle: Path, target_bundle: Path, tmp_path: Path) -> None:
    chosen = ["plain", "penalties", "min_tokens", "logprobs", "processors", "choice"]
    given = ["--target", str(target_bundle), "--draft", str(draft_bundle), "--limit", "2", "--new", "20"]
    rules.main([*given, "--rules", ",".join(chosen), "--policy", "fixed", "--out", str(tmp_path / "report")])
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [(row["rule"], row["temperature"]) for row in rows] == [(rule, t) for rule in chosen for t in (0.0, 1.0)]
    assert {row["identical"] for row in rows} == {"2/2"}
    assert all((row["us/token"] > 0) and row["rules %"] < 100 for row in rows)


def test_masks_are_measured_with_any_tokenizer(target_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules.main(["--masks", str(target_checkpoint / "tokenizer.json")])
    shown = capsys.readouterr().out
    assert "| json_schema | 300 |" in shown
    assert "| lark | 300 |" in shown


def suite(path: Path, groups: list[object]) -> Path:
    data = json.dumps([{"schema": schema} for schema in groups]).encode()
    with tarfile.open(path, "w:gz") as archive:
        for folder in ("draft7", "draft2020-12", "draft4"):
            member = tarfile.TarInfo(f"jsonschema-1.0/json/tests/{folder}/some.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_outputs_validate_and_what_cannot_be_held_to_is_refused(
    draft_bundle: Path, target_bundle: Path, tmp_path: Path
) -> None:
    archive = suite(tmp_path / "suite.tar.gz", [{"enum": [1, "a"]}, {"type": "boolean"}, {"not": {}}, True])
    given = ["--target", str(target_bundle), "--draft", str(draft_bundle), "--suite", str(archive)]
    schemas.main([*given, "--max-new-tokens", "24", "--out", str(tmp_path / "report")])
    report = json.loads((tmp_path / "report.json").read_text())
    for row in report["rows"]:
        assert (row["schemas"], row["identical"], row["complete"], row["valid"], row["refused"]) == (2, 2, 2, 2, 1)
    assert report["invalid"] == []


def test_an_invalid_text_is_told_from_a_valid_one() -> None:
    assert schemas.is_valid({"type": "number"}, "1e99999")
    assert not schemas.is_valid({"type": "number"}, '"1"')
    assert not schemas.is_valid({"type": "number"}, "1,")


def test_an_archive_without_a_suite_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds no JSON-Schema-Test-Suite"):
        list(schemas.schemas(suite(tmp_path / "empty.tar.gz", [True])))
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(OptionError, match="cannot be read"):
        list(schemas.schemas(tmp_path / "text"))
