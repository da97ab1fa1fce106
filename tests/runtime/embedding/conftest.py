"""The C library, built once, and programs that use it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.embedding.build import build, compile_command, shared_python
from s2d_trt.errors import OptionError
from tests.runtime.embedding.programs import PROGRAMS, STRICT, Run


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the library."""
    try:
        compile_command()
        shared_python()
    except OptionError as missing:
        pytest.skip(str(missing))
    out = tmp_path_factory.mktemp("dist")
    build(out)
    return out


@pytest.fixture(scope="session")
def compiled(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Compiles a program, C99 or C++11, without a warning."""
    made: dict[Path, Path] = {}
    folder = tmp_path_factory.mktemp("programs")

    def compile_(source: Path) -> Path:
        if source not in made:
            made[source] = folder / f"{source.stem}_{source.suffix[1:]}"
            compiler = ["g++", "-std=c++11"] if source.suffix == ".cpp" else ["gcc", "-std=c99"]
            links = [f"-I{dist}", f"-L{dist}", f"-Wl,-rpath,{dist}", "-ls2d", "-ldl", "-pthread"]
            command = [*compiler, *STRICT, str(source), *links, "-o", str(made[source])]
            subprocess.run(command, check=True, timeout=60)
        return made[source]

    return compile_


@pytest.fixture(scope="session")
def run(compiled: Callable[[Path], Path]) -> Run:
    """Compiles and runs a program of ``programs/`` or a path; nothing may be printed to stderr."""

    def run_(program: str | Path, *arguments: object, code: int = 0, **changes: str) -> str:
        command = [compiled(PROGRAMS / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=100, env=os.environ | changes)
        assert (done.returncode, done.stderr) == (code, b""), done.stdout
        return done.stdout.decode()

    return run_


@pytest.fixture(scope="session")
def foreign_draft_bundle(draft_checkpoint: Path, engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft with another tokenizer."""
    from export import build

    checkpoint = tmp_path_factory.mktemp("foreign") / "draft"
    shutil.copytree(draft_checkpoint, checkpoint)
    tokenizer = checkpoint / "tokenizer.json"
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    content["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(content), encoding="utf-8")
    out = engines / "foreign.engine"
    build.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return out
