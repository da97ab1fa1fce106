"""A server and a host of the C library over the same bundles, under mixed load, on a machine that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from runtime.embedding.build import build
from tests.benchmarks.embedding.__main__ import program
from tests.benchmarks.faults import machine
from tests.benchmarks.faults.load import TEMPLATE, MixedLoad
from tests.benchmarks.faults.watch import Watch
from tests.benchmarks.serving.process import ServerProcess, server
from tests.benchmarks.serving.soak import models_of, settled
from tests.benchmarks.tables import Row

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "engines" / "demo"
NEW = 24
"""Most new tokens of a text."""
PART = 30.0
"""Seconds of load between two looks at whether it is time to end."""


class Faults(threading.Thread):
    """Injects one fault after the other, in random order."""

    def __init__(self, kinds: dict[str, Callable[[], object]], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._kinds, self._rng, self._ended = kinds, rng, threading.Event()
        self.injected: Counter[str] = Counter()
        self.failed: list[str] = []

    def run(self) -> None:
        """Until ``end``."""
        while not self._ended.wait(self._rng.uniform(1, 8)):
            name = self._rng.choice(list(self._kinds))
            try:
                self._kinds[name]()
                self.injected[name] += 1
            except (OSError, subprocess.CalledProcessError) as cause:
                self.failed.append(f"{name}: {cause}")

    def end(self) -> None:
        """After the fault that is being injected."""
        self._ended.set()
        self.join()


def measure(minutes: float, seed: int, samples: Path) -> list[Row]:
    """One row for each process. SIGINT ends the soak early; ``samples`` gets a line for each look at the processes."""
    with tempfile.TemporaryDirectory() as name, machine.memory_group() as group, _cache(Path(name) / "cache"):
        folder, rng = Path(name), random.Random(seed)
        if group is not None:
            machine.join(group, os.getpid())
        bundles = _bundles(folder)
        build(folder / "dist")
        storm = program("storm", folder / "dist")
        os.environ.update(clock := machine.jumping_clock(folder))
        draft, first, second = map(str, bundles)
        options = ["--threads", "1", "--request-timeout", "0"]
        with server([first, second], draft, options) as running, _storm(storm, draft, first, second, seed) as host:
            pids = {"server": running.process.pid, "C library": host.pid}
            load = _load(running, seed)
            asyncio.run(load.know())
            faults = Faults(_kinds(rng, list(pids.values()), clock, group, folder, bundles), rng)
            watch = Watch(pids, samples, lambda: {"answers": sum(load.statuses.values()), **faults.injected})
            watch.start()
            faults.start()
            _until_time_or_signal(minutes * 60, load)
            faults.end()
            counters = asyncio.run(settled(running))
            watch.end()
            host.send_signal(signal.SIGTERM)
            said = json.loads(host.communicate()[0].splitlines()[-1])
    os.environ.update(dict.fromkeys(clock, ""))
    return [
        {
            "process": "server",
            "minutes": watch.minutes,
            "ended": sum(load.statuses.values()),
            "known": load.sums["known"],
            "different": load.different,
            "wrong": len(load.wrong),
            "counters that differ": len(load.differences(counters)),
            **watch.growth("server"),
            **({"first wrong answer": load.wrong[0]} if load.wrong else {}),
        },
        {
            "process": "C library",
            "minutes": watch.minutes,
            "ended": said["ended"],
            "known": said["ended"] - said["dropped"],
            "different": said["different"],
            "wrong": said["errors"],
            "counters that differ": 0,
            **watch.growth("C library"),
        },
        {"process": "faults", "ended": faults.injected.total(), **faults.injected, "not possible": faults.failed[:3]},
    ]


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """A cache of this soak's own."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _bundles(folder: Path) -> list[Path]:
    """The demo's draft and targets; the target whose clients err has a template that may run for ever."""
    shutil.copytree(DEMO / "target-6m", hostile := folder / "target-6m")
    (hostile / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    bundles = []
    for checkpoint in (DEMO / "draft", DEMO / "target-17m", hostile):
        bundles.append(folder / f"{checkpoint.name}.engine")
        _build(checkpoint, bundles[-1])
    return bundles


def _build(checkpoint: Path, out: Path) -> None:
    what = ("build", "--exits", "6,9,12") if checkpoint.name == "draft" else ("target",)
    command = [sys.executable, "-m", f"export.{what[0]}", *what[1:], "--checkpoint", str(checkpoint), "--out", str(out)]
    subprocess.run([*command, "--no-parity"], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _storm(program: str, draft: str, first: str, second: str, seed: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [program, draft, first, second, str(2**31 - 1), str(seed)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _load(running: ServerProcess, seed: int) -> MixedLoad:
    whole, broken, length = models_of(running)
    return MixedLoad(running, whole, broken, NEW, length - NEW - 1, seed)


def _kinds(
    rng: random.Random, pids: list[int], clock: dict[str, str], group: Path | None, folder: Path, bundles: list[Path]
) -> dict[str, Callable[[], object]]:
    """What may go wrong, by name."""
    kinds: dict[str, Callable[[], object]] = {
        "clock jumps": lambda: machine.jump(clock, rng.choice((0, 3600, -3600, 10**7, -(10**7), 10**9))),
        "cores taken": lambda: machine.take_cores(pids, rng.uniform(1, 10)),
        "pauses": lambda: machine.pause(pids, rng.uniform(0.1, 4)),
        "bundles rebuilt": lambda: _rebuild(rng, folder, bundles),
        "caches lost": lambda: shutil.rmtree(folder / "cache", ignore_errors=True),
        "renderers killed": lambda: _kill_children(pids[0]),
    }
    return kinds | ({"memory taken": partial(machine.take_memory, group, 4.0)} if group else {})


def _rebuild(rng: random.Random, folder: Path, bundles: list[Path]) -> None:
    out = rng.choice(bundles)
    own = folder / out.stem
    _build(own if own.exists() else DEMO / out.stem, out)


def _kill_children(pid: int) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def _until_time_or_signal(seconds: float, load: MixedLoad) -> None:
    """Load the server."""
    began, stopped = time.monotonic(), threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    while not stopped.is_set() and (left := began + seconds - time.monotonic()) > 0:
        asyncio.run(load.run(min(PART, left)))
    signal.signal(signal.SIGINT, before)
