"""Kill a measurement at many moments, and hold what it gives in the end against one that nothing disturbed.

Each kill is SIGKILL at a random moment after the journal has grown. Equal must be every unit, its prompt, its tokens
and whether they are the target's own: nothing is lost and nothing is there twice.

  python -m tests.benchmarks.killing --target target-6m --draft draft --work killed/
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runtime.evaluation.matrix.runs import read_runs
from s2d_trt.cli import ArgumentParser, positive_int, run_command

PROG = "python -m tests.benchmarks.killing"
LONGEST_WAIT = 0.6
"""Seconds between the journal's growth and the kill."""


def main(argv: Sequence[str]) -> int:
    """Measure twice, once with kills; exit code 1 where the results differ."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundle")
    parser.add_argument("--draft", default="draft", help="draft bundle (%(default)s)")
    parser.add_argument("--kills", type=positive_int, default=20, help="so many kills (%(default)s)")
    parser.add_argument("--limit", type=positive_int, default=24, help="prompts (%(default)s)")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="working folder; emptied first")
    arguments = parser.parse_args(argv)
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    matrix = {
        "targets": [arguments.target],
        "drafts": [arguments.draft],
        "limit": arguments.limit,
        "max_new_tokens": 32,
        "temperatures": [0, 1],
    }
    (work / "matrix.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in matrix.items()))
    killed, undisturbed = work / "killed", work / "undisturbed"
    rng, kills = random.Random(0), 0
    while kills < arguments.kills and _killed(work, killed, rng):
        kills += 1
    for folder in (killed, undisturbed):
        subprocess.run(_command(work, folder), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same = list(_lasting(killed)) == list(_lasting(undisturbed))
    print(f"{kills} kills; the results are {'equal' if same else 'DIFFERENT'}")
    return int(not same)


def _command(work: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "runtime.evaluate", str(work / "matrix.toml"), "--out", str(folder)]


def _killed(work: Path, folder: Path, rng: random.Random) -> bool:
    """Start the measurement and kill it after one or two further units; False where it ended before."""
    process = subprocess.Popen(_command(work, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    enough = _written(folder) + rng.randint(1, 2)
    while _written(folder) < enough and process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, LONGEST_WAIT))
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def _written(folder: Path) -> int:
    """Lines of journals, and finished cells."""
    lines = sum(len(path.read_bytes().splitlines()) for path in folder.glob("*.journal"))
    return lines + 1000 * len(list(folder.glob("*.json")))


def _lasting(folder: Path) -> Iterator[Any]:
    """What does not depend on the time of day."""
    for run in read_runs(folder):
        yield run.cell, run.skipped
        for unit in run.units:
            yield unit["key"], unit["prompt_tokens"], unit["identical"], unit["bit_identical"]
            # Not the accept lengths: the adaptive policy decides by the clock what it drafts.
            yield unit["drafted"]["tokens"], unit["alone"]["tokens"]


if __name__ == "__main__":
    run_command(PROG, main)
