"""A matrix is measured on the machines of a Ray cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime import evaluate
from runtime.evaluation.matrix.runs import read_runs
from s2d_trt.cli import run_command

pytest.importorskip("ray")


@pytest.fixture
def matrix_file(tmp_path: Path, draft_bundle: Path, target_bundle: Path) -> Path:
    path = tmp_path / "matrix.toml"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the draft"}\n{"prompt": "the target"}\n')
    path.write_text(
        f'targets = ["{target_bundle}"]\ndrafts = ["{draft_bundle}"]\nprompts = "{prompts}"\n'
        "temperatures = [0, 1]\nmax_new_tokens = 8\nthreads = 1\n"
    )
    return path


def test_a_cluster_gives_the_texts_that_this_machine_gives(matrix_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.evaluate", str(matrix_file), "--out"]
    # In processes of their own: Ray leaves threads and open sockets behind.
    subprocess.run([*command, str(tmp_path / "here")], check=True, timeout=120)
    subprocess.run([*command, str(tmp_path / "cluster"), "--ray", "local"], check=True, timeout=120)
    here, there = (
        [[unit["alone"]["tokens"] for unit in run.units] for run in read_runs(tmp_path / folder)]
        for folder in ("here", "cluster")
    )
    assert here == there
    assert len(here) == 2
    assert not list((tmp_path / "cluster").glob("*.journal"))


def test_a_cluster_that_is_not_there_is_one_line(
    matrix_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(evaluate.PROG, evaluate.main, [str(matrix_file), "--out", str(tmp_path / "runs"), "--ray", "auto"])
    assert "there is no Ray cluster at auto; start one with ray start" in capsys.readouterr().err
