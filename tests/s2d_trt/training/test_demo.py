"""The demo's recipe from the text to the checkpoints, at a small size; without torch it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from s2d_trt.training import checkpoint, demo, sources
from s2d_trt.training.corpus import Files
from s2d_trt.training.model import Exits
from tests.mistakes import mistake

WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(torch=None, transformers=None); "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def tiny(texts: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[demo.Plan, ...]:
    """The whole recipe at a size of seconds, on a folder of text."""
    monkeypatch.setattr(Exits, "compile_layers", lambda _: None)
    files = Files.scan(texts, (".txt",), held_out=("held/*",))
    monkeypatch.setattr(sources, "library", lambda: files)
    monkeypatch.setattr(sources, "training_files", lambda: files.train)
    monkeypatch.setattr(sources, "held_out_files", lambda: {"standard library": files.held_out})
    sizes = {"VOCABULARY": 300, "CONTEXT": 16, "WINDOW": 8, "BATCH": 4, "MICRO": 2, "SAMPLES": 6, "PROMPT": 2}
    for name, size in {**sizes, "HELD_OUT_WINDOW": 8, "HELD_OUT_WINDOWS": 4, "GREEDY_TEXTS": 3}.items():
        monkeypatch.setattr(demo, name, size)
    plans = (
        demo.Plan("large", 16, 3, 2, 1, 24, (3,), (1.0,), steps=4, lr=1e-2),
        demo.Plan("draft", 16, 2, 2, 1, 24, (1, 2), (0.5, 1.0), steps=4, lr=1e-2, teacher="large"),
    )
    monkeypatch.setattr(demo, "PLANS", plans)
    return plans


@pytest.mark.usefixtures("tiny")
def test_one_command_trains_the_targets_and_a_draft_that_learns_from_them(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state")]
    demo.main(arguments)
    large, draft = ((tmp_path / "out" / name / "README.md").read_text() for name in ("large", "draft"))
    assert "before it repeats a run of 16" in large
    assert "agreement with large" in draft
    assert "| standard library |" in draft
    model = checkpoint.load(tmp_path / "out/draft")
    assert model.config.exits == [1, 2]
    assert model.config.max_position_embeddings == 16

    demo.main(["--out", str(tmp_path / "more"), "--state", str(tmp_path / "state"), "--begin", str(tmp_path / "out")])
    tokenizers = [tmp_path / folder / "draft/tokenizer.json" for folder in ("out", "more")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


def test_every_plan_comes_after_its_teacher_and_ends_at_its_last_layer() -> None:
    earlier: list[str | None] = [None]
    for plan in demo.PLANS:
        assert plan.teacher in earlier
        assert plan.exits[-1] == plan.layers
        assert len(plan.exit_weights) == len(plan.exits)
        earlier.append(plan.name)


def test_a_draft_without_its_teacher_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--only", "draft", "--out", str(tmp_path), "--state", str(tmp_path / "state")]
    assert "train that first (--only target-17m)" in mistake(capsys, "demo", demo.main, argv)
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
    needs = "training needs torch and transformers: pip install -e '.[train]' in the checkout"
    assert done.stderr == f"python -m {module}: {needs}\n"
    assert not list(tmp_path.iterdir())
