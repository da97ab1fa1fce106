"""The demo's recipe: what it holds out exists and is never trained on; without torch it says so."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from s2d_trt.cli import run_command
from s2d_trt.training import demo
from s2d_trt.training.corpus import Files

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(torch=None, transformers=None); "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@pytest.fixture(scope="module")
def files() -> Files:
    """What the demo reads on this machine."""
    return demo.scan_library(LIBRARY)


@pytest.mark.parametrize("pattern", demo.HELD_OUT)
def test_a_held_out_module_exists_in_this_interpreter(pattern: str) -> None:
    assert any(path.is_file() for path in LIBRARY.glob(pattern))


def test_held_out_modules_are_not_in_the_training_list(files: Files) -> None:
    held_out = {path for pattern in demo.HELD_OUT for path in LIBRARY.glob(pattern)}
    assert held_out == set(files.held_out)
    assert not held_out & set(files.train)
    assert len(files.train) > 10 * len(files.held_out)


def test_other_peoples_packages_and_tests_are_not_read(files: Files) -> None:
    names = [path.relative_to(LIBRARY).as_posix() for path in (*files.train, *files.held_out)]
    assert not [name for name in names if name.startswith(("site-packages/", "test/", "encodings/"))]


def test_every_plan_comes_after_its_teacher_and_ends_at_its_last_layer() -> None:
    earlier: list[str | None] = [None]
    for plan in demo.PLANS:
        assert plan.teacher in earlier
        assert plan.exits[-1] == plan.layers
        assert len(plan.exit_weights) == len(plan.exits)
        earlier.append(plan.name)


def test_a_draft_without_its_teacher_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_command("demo", demo.main, ["--only", "draft", "--out", str(tmp_path), "--state", str(tmp_path / "state")])
    assert exit_.value.code == 2
    assert "train that first (--only target-17m)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for plan in demo.PLANS:
        (tmp_path / plan.name).mkdir()
    demo.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out.count("exists; delete it to train it again") == 3


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("s2d_trt.training.demo", []), ("s2d_trt.training.soft", ["--data", ".", "--exits", "1"])],
)
def test_without_torch_training_names_the_extra(module: str, arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, module, *arguments, "--out", str(tmp_path / "out")],
        cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"python -m {module}: training needs torch and transformers: pip install 's2d-trt[train]'\n"
    assert not list(tmp_path.iterdir())
