"""What strangers and hurried users send, typed at the commands one after the other, and the answers."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from s2d_trt.cli import run_command
from s2d_trt.manifest import MANIFEST
from tests.benchmarks.faults import cases
from tests.benchmarks.faults.kills import Demo
from tests.benchmarks.tables import Row

PATIENCE = 60.0
"""Seconds before a command counts as hanging."""
MODULES = ("runtime.run", "runtime.bench", "export.build", "export.target", "tests.benchmarks.grow")
TRAINING = "s2d_trt.training.soft"


def measure(demo: Demo, checkpoint: Path, folder: Path) -> list[Row]:
    """A row for each case: what it was, the exit code, the seconds and the last line that was said.

    Bundles and checkpoint are copied before they are spoilt.
    """
    for name in (*MODULES, TRAINING):
        importlib.import_module(name)
    rows = []
    for number, (title, command) in enumerate(_commands(demo.target, demo.draft, checkpoint)):
        place = folder / f"case-{number}"
        place.mkdir()
        module, *arguments = map(str, command(place))
        rows.append({"case": title, **_answer(module, arguments, place)})
        print(f"{rows[-1]['answer']:9} {rows[-1]['code']!s:>4} {rows[-1]['seconds']:5.1f} s  {title}", file=sys.stderr)
        print(f"{'':27}{rows[-1]['said'][:200]}", file=sys.stderr, flush=True)
        shutil.rmtree(place)
    return rows


Command = Callable[[Path], Sequence[object]]


def _commands(target: Path, draft: Path, checkpoint: Path) -> Iterator[tuple[str, Command]]:
    """Each case with a function that spoils copies in a folder and gives the module and its arguments."""
    run = ("runtime.run", "--draft", "none", "--max-new-tokens", "4", "--threads", "1")

    def of_manifest(keys: str, value: Any) -> Command:
        def command(place: Path) -> Sequence[object]:
            bundle = Path(shutil.copytree(target, place / "x.engine"))
            _set(bundle / MANIFEST, keys, value)
            return *run, "--target", bundle, "--prompt", "a"

        return command

    def of_config(file: str, keys: str, value: Any) -> Command:
        def command(place: Path) -> Sequence[object]:
            copy = Path(shutil.copytree(checkpoint, place / "checkpoint"))
            _set(copy / file, keys, value)
            return "export.target", "--checkpoint", copy, "--out", place / "x.engine", "--no-parity"

        return command

    def of_files(change: Callable[[Path], object]) -> Command:
        def command(place: Path) -> Sequence[object]:
            copy = Path(shutil.copytree(checkpoint, place / "checkpoint"))
            change(copy)
            return "export.target", "--checkpoint", copy, "--out", place / "x.engine", "--no-parity"

        return command

    def of_template(text: str) -> Command:
        def command(place: Path) -> Sequence[object]:
            bundle = Path(shutil.copytree(target, place / "x.engine"))
            (bundle / "chat_template.jinja").write_text(text, encoding="utf-8")
            _list(bundle, "chat_template.jinja")
            return *run, "--target", bundle, "--chat", "--prompt", "hello"

        return command

    def typed(words: Sequence[object]) -> Command:
        def command(place: Path) -> Sequence[object]:
            places = {"TARGET": target, "DRAFT": draft, "CHECKPOINT": checkpoint, "PLACE": place}
            return [_placed(str(word), places) for word in words]

        return command

    for keys, value in cases.MANIFESTS:
        yield f"manifest {keys} = {cases.shown(value)}", of_manifest(keys, value)
    for file, keys, value in cases.CONFIGS:
        yield f"{file} {keys} = {cases.shown(value)}", of_config(file, keys, value)
    for title, change in cases.CHECKPOINTS:
        yield f"checkpoint: {title}", of_files(change)
    for title, text in cases.TEMPLATES:
        yield f"chat template: {title}", of_template(text)
    for words in cases.COMMANDS:
        yield " ".join(map(cases.shown, words)), typed(words)


def _placed(word: str, places: dict[str, Path]) -> str:
    """The word, with the name of a place at its beginning replaced."""
    name, slash, rest = word.partition("/")
    return f"{places[name]}{slash}{rest}" if name in places else word


def _set(path: Path, keys: str, value: Any) -> None:
    """Replace a value by its keys; without keys, the whole file by a text."""
    if not keys:
        path.write_text(value, encoding="utf-8")
        return
    data = json.loads(path.read_bytes()) if path.exists() else {}
    *parents, last = keys.split(".")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(data), encoding="utf-8")


def _list(bundle: Path, name: str) -> None:
    """Name a file in the manifest, with its hash."""
    content = (bundle / name).read_bytes()
    data = json.loads((bundle / MANIFEST).read_bytes())
    data["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def _answer(module: str, arguments: list[str], place: Path) -> Row:
    """Run the command in a child that has everything imported already."""
    output, before = place / "output", sorted(place.rglob("*"))
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(place)
        program = sys.modules[module]
        try:
            run_command(program.PROG, program.main, arguments)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)
    code = _wait(child, began + PATIENCE)
    seconds = time.monotonic() - began
    text = output.read_text(encoding="utf-8", errors="replace")
    left = [path.name for path in sorted(place.rglob("*")) if path not in before and path != output]
    answer = "hang" if code is None else "traceback" if "Traceback" in text else "ok" if code == 0 else "refused"
    if answer == "refused" and (left or code != 2):
        answer = "left" if left else "ended"
    lines = [line for line in text.splitlines() if line.strip()]
    return {"answer": answer, "code": code, "seconds": seconds, "said": lines[-1] if lines else "", "left": left[:5]}


def _wait(child: int, until: float) -> int | None:
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
