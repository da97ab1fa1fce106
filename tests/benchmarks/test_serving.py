"""The benchmarks of the server on tiny bundles: every table is filled, and they find what they are to find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.serving.__main__ import PROG, main
from tests.mistakes import mistake


@pytest.fixture
def given(draft_bundle: Path, target_bundle: Path, other_target_bundle: Path, tmp_path: Path) -> list[str]:
    for name in ("starlette", "uvicorn", "msgspec", "prometheus_client"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[serve]'")
    targets = f"{target_bundle},{other_target_bundle}"
    sizes = ["--texts", "3", "--new", "12", "--repeats", "1", "--sequences", "2", "--threads", "1"]
    return ["--target", targets, "--draft", str(draft_bundle), *sizes, "--out", str(tmp_path / "report")]


def rows(given: list[str], what: str, *more: str) -> list[dict[str, object]]:
    main([what, *given, *more])
    found = json.loads(Path(given[-1]).with_suffix(".json").read_text(encoding="utf-8"))
    assert isinstance(found, list)
    return found


def test_served_texts_are_compared_at_every_load(given: list[str]) -> None:
    found = rows(given, "identity")
    assert [row["clients"] for row in found] == [1, 8, 32]
    for row in found:
        assert (row["texts"], row["cancelled"]) == (row["identical"], row["identical so far"])
        assert row["texts"] + row["cancelled"] == 6  # type: ignore[operator]


def test_the_cost_of_http_has_a_row_for_each_way_to_draft(given: list[str]) -> None:
    found = rows(given, "cost")
    assert [row["drafting"] for row in found] == ["plain", "fixed"]
    assert all(row["bare ms"] > 0 and row["served first token ms"] > 0 for row in found)  # type: ignore[operator]


def test_a_soak_holds_the_servers_counters_against_the_clients(given: list[str]) -> None:
    (row,) = rows(given, "soak", "--minutes", "0.03")
    assert row["answers"] > 0  # type: ignore[operator]
    assert (row["counters that differ"], row["wrong answers"], row["texts left"]) == (0, 0, 0)


def test_a_soak_of_one_target_is_one_line(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given[1] = given[1].partition(",")[0]
    assert "needs two targets" in mistake(capsys, PROG, main, ["soak", *given])
