"""Thousands of thresholds side by side give the figures of replays one by one."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.steps import Replay, Summary
from runtime.evaluation.replay.sweep import Settings, grid, sweep
from runtime.tree.shape import TreeShape
from tests.runtime.evaluation.conftest import PRICES


def test_a_sweep_gives_the_time_and_the_steps_of_each_replay(recorder: Recorder, recording: Recording) -> None:
    settings = grid(recording, 4, (0, 3))
    swept = sweep(recording, PRICES, settings, recorder.complete)
    for index in range(0, len(settings), 3):
        thresholds, depth = settings.of(index)
        texts = Replay(recording, PRICES, Policy(FixedThresholds(thresholds), TreeShape(depth, 1, 60))).run()
        assert recording.complete
        assert swept.steps[index].tolist() == [len(text.outcomes) for text in texts]
        assert swept.milliseconds[index].tolist() == pytest.approx([text.milliseconds for text in texts])
        assert swept.tokens_per_ms()[index] == pytest.approx(Summary.of(texts).tokens_per_ms)


def test_speeds_of_some_texts_count_these_alone(recorder: Recorder, recording: Recording) -> None:
    settings = Settings(np.array([[0.5, 0.5, 0.0]]), np.array([2]))
    swept = sweep(recording, PRICES, settings, recorder.complete)
    expected = swept.tokens[1:3].sum() / swept.milliseconds[0, 1:3].sum()
    assert swept.tokens_per_ms([1, 2])[0] == pytest.approx(expected)


def test_the_grid_has_a_first_exit_that_always_answers_and_one_that_never_does(recording: Recording) -> None:
    settings = grid(recording, 5, (1, 2))
    first = settings.thresholds[:, 0]
    assert (first.min(), first.max()) == (0.0, 1.0)
    assert set(settings.depths.tolist()) == {1, 2}
    assert not settings.thresholds[:, -1].any()
