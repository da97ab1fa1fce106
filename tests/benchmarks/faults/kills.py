"""Each piece of work, killed again and again at random moments and then let end, beside the same work left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.tables import Row

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "engines" / "demo"
MATRIX = """
targets = ["{target}"]
drafts = ["{draft}"]
prompts = "{prompts}"
max_new_tokens = 8
threads = 1
rounds = 3
[policies.default]
"""


@dataclass(frozen=True)
class Work:
    """``main(arguments)`` of the first of ``modules`` in a folder that ``prepare`` fills; ``result`` is what must not
    depend on kills. ``bundle`` is one that must be whole after each kill, once it is there; ``done`` is what the work
    refuses to write again."""

    modules: tuple[str, ...]
    prepare: Callable[[Path], Sequence[object]]
    result: Callable[[Path], Any]
    bundle: str = "no.engine"
    done: str = "nothing"


def killed(work: Work, kills: int, folder: Path, seed: int = 7) -> Row:
    """A row: how many were killed, and what was different from the work that was left alone.

    Raises:
        CalledProcessError: a bundle was damaged, or the work did not end.
    """
    alone, disturbed = folder / "alone", folder / "disturbed"
    first = _run(work, 0, 0.0, alone, seed)
    second = _run(work, kills, first["seconds"], disturbed, seed)
    files = [list(part.rglob("*")) for part in (alone, disturbed)]
    return {
        "work": work.modules[0],
        "kills": kills,
        "hit": second["killed"],
        "seconds of the work": first["seconds"],
        "same result": work.result(alone) == work.result(disturbed),
        "files left": len(files[1]) - len(files[0]),
        "processes left": second["processes left"],
    }


def _run(work: Work, kills: int, most: float, folder: Path, seed: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    places, modules = (folder / work.bundle, folder / work.done), ",".join(work.modules)
    arguments = map(str, (seed, kills, most, *places, modules, *work.prepare(folder)))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def build(checkpoint: Path, before: Path | None = None) -> Work:
    """Building a target, over an older bundle if there is one."""

    def prepare(folder: Path) -> Sequence[object]:
        if before is not None:
            shutil.copytree(before, folder / "x.engine")
        return "--checkpoint", checkpoint, "--out", folder / "x.engine", "--no-parity"

    return Work(("export.target", "export.pipeline"), prepare, lambda folder: _names(folder / "x.engine"), "x.engine")


def compile_plans(graphs: Path) -> Work:
    """Compiling a bundle of graphs to plans."""

    def prepare(folder: Path) -> Sequence[object]:
        return (shutil.copytree(graphs, folder / "x.engine"),)

    return Work(("export.compile",), prepare, lambda folder: _names(folder / "x.engine"), "x.engine")


def train() -> Work:
    """Training a tiny draft on this project's own text."""

    def prepare(folder: Path) -> Sequence[object]:
        size = ("--hidden", 32, "--heads", 2, "--kv-heads", 1, "--ffn", 32, "--exits", "1,2", "--vocab-size", 300)
        run = ("--steps", 30, "--save-every", 2, "--seq-length", 32, "--batch", 2, "--micro-batch", 1, "--no-compile")
        return "--data", ROOT / "s2d_trt", "--out", folder / "draft", "--precision", "fp32", *size, *run

    modules = ("s2d_trt.training.soft", "torch", "accelerate", "transformers", "s2d_trt.training.trainer")
    return Work(modules, prepare, lambda folder: (folder / "draft" / "model.safetensors").read_bytes(), done="draft")


def evaluate(target: Path, draft: Path) -> Work:
    """Measuring a matrix of one cell."""

    def prepare(folder: Path) -> Sequence[object]:
        (folder / "p.jsonl").write_text('{"prompt": "def f("}\n{"prompt": "import"}\n', encoding="utf-8")
        matrix = MATRIX.format(target=target, draft=draft, prompts=folder / "p.jsonl")
        (folder / "m.toml").write_text(matrix, encoding="utf-8")
        return folder / "m.toml", "--out", folder / "runs"

    def result(folder: Path) -> Any:
        (run,) = (json.loads(path.read_bytes()) for path in (folder / "runs").glob("*.json"))
        return [(unit["key"], unit["identical"], unit["alone"]["tokens"]) for unit in run["units"]]

    return Work(("runtime.evaluate", "runtime.decoding.decoder"), prepare, result)


def serve(target: Path) -> Work:
    """Starting a server and answering once."""

    def prepare(folder: Path) -> Sequence[object]:
        return target, folder / "socket", folder / "answer"

    return Work(("tests.benchmarks.faults.one_answer",), prepare, lambda folder: (folder / "answer").read_bytes())


def first_start(target: Path) -> Work:
    """Loading a target whose reordered weights are not in the cache yet."""
    modules = ("tests.benchmarks.faults.first_start",)
    return Work(modules, lambda folder: (target, folder / "scores"), lambda folder: (folder / "scores").read_bytes())


@dataclass(frozen=True)
class Demo:
    """Bundles of the demo: target, draft, and the draft's graphs to compile."""

    target: Path
    draft: Path
    graphs: Path


def demo_bundles(folder: Path) -> Demo:
    """Build them."""
    demo = Demo(folder / "target-6m.engine", folder / "draft.engine", folder / "graphs.engine")
    draft = ("export.build", "--checkpoint", DEMO / "draft", "--exits", "6,9,12", "--no-parity", "--out")
    for command in (
        ("export.target", "--checkpoint", DEMO / "target-6m", "--no-parity", "--out", demo.target),
        (*draft, demo.draft),
        (*draft, demo.graphs, "--backend", "tensorrt", "--no-compile"),
    ):
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return demo


def measure(kills: int, demo: Demo, folder: Path) -> list[Row]:
    """A row for each work, with an equal share of the kills."""
    works = [
        build(DEMO / "target-6m"),
        build(DEMO / "target-6m", before=demo.graphs),
        first_start(demo.target),
        serve(demo.target),
        evaluate(demo.target, demo.draft),
        train(),
        compile_plans(demo.graphs),
    ]
    rows = []
    for index, work in enumerate(works):
        rows.append(killed(work, -(-kills // len(works)), folder / str(index)))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _names(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.iterdir())
