"""A machine whose clock jumps, or that takes a core or memory away, makes texts slower and never wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.faults import machine

ROOT = Path(__file__).parents[2]
TEXTS = 12
Fault = Callable[[int], object]
"""Injected at a process, again and again."""


@pytest.fixture(scope="module")
def alone(target_bundle: Path, draft_bundle: Path) -> list[Any]:
    return texts([target_bundle, draft_bundle], {}, lambda _: None)


def texts(bundles: list[Path], environment: dict[str, str], fault: Fault, group: Path | None = None) -> list[Any]:
    """What ``texts`` generates while the fault is injected after every text."""
    command = [sys.executable, "-m", "tests.benchmarks.faults.texts", *map(str, bundles), str(TEXTS)]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if group is not None:
            machine.join(group, process.pid)
        process.stdin.write("begin\n")
        process.stdin.flush()
        found = []
        for line in process.stdout:
            found.append(json.loads(line))
            fault(process.pid)
    assert process.returncode == 0
    assert len(found) == TEXTS
    assert all(took_time for _, took_time in found)
    return found


def test_a_clock_that_jumps(target_bundle: Path, draft_bundle: Path, alone: list[Any], tmp_path: Path) -> None:
    clock, jumps = machine.jumping_clock(tmp_path), itertools.cycle((10**9, -3600, 0, -(10**9), 3600))
    assert texts([target_bundle, draft_bundle], clock, lambda _: machine.jump(clock, next(jumps))) == alone


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_core_that_is_taken_away(target_bundle: Path, draft_bundle: Path, alone: list[Any]) -> None:
    assert texts([target_bundle, draft_bundle], {}, lambda pid: machine.take_cores([pid], 0.02)) == alone


def test_memory_that_is_taken_away(target_bundle: Path, draft_bundle: Path, alone: list[Any], tmp_path: Path) -> None:
    """With a cache of its own, so that the pages of its files are the group's."""
    with machine.memory_group() as group:
        if group is None:
            pytest.skip("needs the right to make control groups of memory")
        taken = 0

        def fault(_: int) -> None:
            nonlocal taken
            with contextlib.suppress(OSError):  # what it holds just then cannot be freed
                machine.take_memory(group, 0.02)
                taken += 1

        assert texts([target_bundle, draft_bundle], {"XDG_CACHE_HOME": str(tmp_path)}, fault, group) == alone
        assert taken > 0
