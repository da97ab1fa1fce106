"""Killed at any moment, work ends as if it had been left alone: the old bundle or the new, the same result, no trace.

Training and evaluation are killed in their own tests; ``python -m tests.benchmarks.faults kills`` kills all of them,
and compiling too, as often as you like.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.faults import kills
from tests.benchmarks.faults.kills import Work, killed

KILLS = 8


@pytest.fixture(params=["build", "rebuild", "serve", "first start"])
def work(
    request: pytest.FixtureRequest, other_target_checkpoint: Path, other_target_bundle: Path, draft_bundle: Path
) -> Work:
    works = {
        "build": lambda: kills.build(other_target_checkpoint),
        "rebuild": lambda: kills.build(other_target_checkpoint, before=draft_bundle),
        "serve": lambda: kills.serve(other_target_bundle),
        "first start": lambda: kills.first_start(other_target_bundle),
    }
    return works[request.param]()


def test_work_that_is_killed_ends_as_if_left_alone(work: Work, tmp_path: Path) -> None:
    row = killed(work, KILLS, tmp_path)
    assert row["hit"] > 0
    assert row["same result"]
    assert row["files left"] == 0
    assert row["processes left"] == 0
