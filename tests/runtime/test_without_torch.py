"""The runtime needs neither torch nor anything else of the export side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WITHOUT = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "onnx", "safetensors", "ml_dtypes", "tqdm", "export"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def without_torch(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module where the export side's packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=ROOT, input=text, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


def test_the_runtime_generates_without_torch(draft_bundle: Path, target_bundle: Path) -> None:
    done = without_torch(
        "runtime.run", "--target", str(target_bundle), "--draft", str(draft_bundle), "--max-new-tokens", "8", "--json",
        text="the draft",
    )  # fmt: skip
    assert done.returncode == 0
    assert all(line.endswith(" ...") for line in done.stderr.splitlines()), done.stderr
    assert json.loads(done.stdout)["new_tokens"] == 8


def test_a_mistake_is_one_line_and_code_2_in_a_process_of_its_own(draft_bundle: Path) -> None:
    done = without_torch("runtime.run", "--target", str(draft_bundle), "--draft", str(draft_bundle), "--prompt", "a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m runtime.run: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_packages_are_absent_in_these_tests() -> None:
    done = without_torch("export.build", "--help")
    assert done.returncode != 0
    assert "export is not installed" in done.stderr
