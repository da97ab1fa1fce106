"""Figures of runs reach the trackers that the user has."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import evaluate
from runtime.evaluation.matrix.runs import Run, read_runs
from runtime.evaluation.matrix.sinks import Trackers, figures
from s2d_trt.errors import OptionError


@pytest.fixture(scope="module")
def matrix_file(tmp_path_factory: pytest.TempPathFactory, draft_bundle: Path, target_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "q.jsonl").write_text('{"prompt": "the draft"}\n{"prompt": "the target disposes"}\n')
    path = folder / "matrix.toml"
    path.write_text(
        f'targets = ["{target_bundle}"]\ndrafts = ["{draft_bundle}"]\nprompts = "{folder / "q.jsonl"}"\n'
        "max_new_tokens = 4\nthreads = 1\n[policies.published]\nthresholds = [0.5, 0.5, 0]\n"
    )
    return path


@pytest.fixture(scope="module")
def run(matrix_file: Path) -> Run:
    out = matrix_file.parent / "runs"
    assert evaluate.main([str(matrix_file), "--out", str(out)]) == 0
    return read_runs(out)[0]


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_measured(
    matrix_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db" if name == "mlflow" else "")
    extra = ["--trackio", "project"] if name == "trackio" else []
    with pytest.raises(OptionError, match="pip install"):
        evaluate.main([str(matrix_file), "--out", str(tmp_path / "runs"), *extra])
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_does_not_open_is_named_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise RuntimeError("maintenance mode\nmore")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_experiment=refuse))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/none")
    with pytest.raises(OptionError, match=r"^MLflow fails \(RuntimeError: maintenance mode\); correct [^\n]*$"):
        Trackers()


def test_a_tracker_that_fails_later_costs_no_measurement(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    Trackers("project").send(run)
    assert "trackio fails (ConnectionError: no route); the run file holds the figures" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # the trackers' own
def test_figures_reach_an_mlflow_database(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="a database needs sqlalchemy beside mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'ml.db'}")
    Trackers().send(run)
    with closing(sqlite3.connect(tmp_path / "ml.db")) as database:
        assert dict(database.execute("select key, value from metrics")) == pytest.approx(figures(run))
        assert ("policy", "published") in database.execute("select key, value from params").fetchall()


@pytest.mark.filterwarnings("ignore")  # the trackers' own
def test_figures_reach_trackio(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio", reason="trackio is not installed")
    Trackers("demo").send(run)
    with closing(sqlite3.connect(tmp_path / "demo.db")) as database:
        assert database.execute("select count(*) from metrics").fetchone() == (1,)
