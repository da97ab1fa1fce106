"""Tuning chooses on some files, judges on others, and adopts only what is faster beyond doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.replay.hindsight import hindsight
from runtime.evaluation.replay.recorder import Recorder, replayed
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.sweep import Settings
from runtime.evaluation.statistics import bootstrap, gain, spread
from runtime.evaluation.study import search
from runtime.evaluation.tuning import Trial, Tuner, Tuning, split
from tests.runtime.evaluation.conftest import PRICES


@pytest.fixture(scope="module")
def tuning(recorder: Recorder, recording: Recording) -> Tuning:
    return Tuner(recorder, [recording], PRICES).run()


def test_whole_files_are_tuned_on_or_judge() -> None:
    labels = ["a", "b", "a", "c", "b", "d"]
    tuned, held_out = split(labels)
    assert {labels[index] for index in tuned} == {"a", "c"}
    assert {labels[index] for index in held_out} == {"b", "d"}
    with pytest.raises(ValueError, match="one source file"):
        split(["a", "a"])


def test_tuned_thresholds_are_at_least_as_fast_as_the_published_on_the_tuned_texts(tuning: Tuning) -> None:
    speeds = {trial.name: trial.speed(tuning.tokens, tuning.tuned) for trial in tuning.trials}
    assert speeds["tuned thresholds"] >= speeds["published thresholds"]
    settings, surface = tuning.surface
    assert len(settings) == len(surface)
    assert speeds["tuned thresholds"] >= surface.max() * (1 - 1e-9)


def test_nothing_is_faster_than_the_bound_and_no_plan_is(tuning: Tuning) -> None:
    assert (tuning.bound <= tuning.achievable * (1 + 1e-9)).all()
    for trial in tuning.trials:
        assert (trial.milliseconds >= tuning.bound * (1 - 1e-9)).all()


def test_a_plan_that_knows_the_text_beats_every_fixed_policy(recorder: Recorder, recording: Recording) -> None:
    planned = sum(plan.milliseconds for plan in hindsight(recording, PRICES))
    fixed = replayed(recorder, recording, PRICES, Policy(FixedThresholds()))
    assert planned < sum(text.milliseconds for text in fixed)


def invented(ours: list[float], theirs: list[float]) -> Tuning:
    """Two files judge; the trial is as fast on the tuned texts as on theirs."""
    count = len(ours)
    default = Trial("default", Policy(), np.array(theirs), np.ones(count, int))
    other = Trial("other", Policy(), np.array(ours), np.ones(count, int))
    everything = np.arange(count)
    flat = np.ones(count)
    surface = Settings(np.zeros((1, 3)), np.zeros(1, int)), np.ones(1)
    labels = list("abcdefgh")[:count]
    return Tuning(default, [default, other], flat, flat, flat, flat, labels, everything, everything, surface)


def test_a_gain_beyond_doubt_is_adopted() -> None:
    assert invented([1.0] * 8, [1.5] * 8).adopted


def test_a_gain_that_one_file_owes_everything_to_is_not_adopted() -> None:
    uncertain = invented([1.0] * 7 + [1.0], [0.98] * 7 + [3.0])
    assert uncertain.best.name == "other"
    assert not uncertain.adopted


def test_the_default_is_never_adopted_over_itself() -> None:
    assert not invented([2.0] * 8, [1.0] * 8).adopted


def test_optuna_finds_no_worse_than_its_trials(recorder: Recorder, recording: Recording) -> None:
    tuner = Tuner(recorder, [recording], PRICES, chain=False)
    trial = search(tuner, 3)
    assert trial.name == "best of 3 trials"
    assert (trial.milliseconds > 0).all()


def test_trees_are_tried_where_decoding_need_not_be_exact(
    recorder: Recorder, recording: Recording, monkeypatch
) -> None:
    monkeypatch.setattr("runtime.evaluation.tuning.TREES", (replace(Policy().largest_tree(), depth=1, nodes=6),))
    monkeypatch.setattr("runtime.evaluation.tuning.STATIC_NODES", (6,))
    names = {trial.name for trial in Tuner(recorder, [recording], PRICES, chain=False).run().trials}
    assert {"static tree of 6 nodes", "adaptive trees"} <= names


# Statistics


def test_the_interval_holds_the_figure_and_narrows_with_agreement() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.uniform(1.0, 2.0, 30)
    labels = [f"file {index // 2}" for index in range(30)]
    exact, noisy = gain(theirs / 1.2, theirs, labels), gain(theirs / rng.uniform(0.8, 1.6, 30), theirs, labels)
    assert (exact.low, exact.value, exact.high) == pytest.approx((1.2, 1.2, 1.2))
    assert noisy.low < noisy.value < noisy.high


def test_whole_files_are_drawn() -> None:
    values = np.array([0.0] * 10 + [1.0])
    one_file = bootstrap(lambda chosen: float(values[chosen].mean()), ["a"] * 11)
    assert one_file.low == one_file.high == pytest.approx(1 / 11)


def test_the_spread_ignores_one_outlier() -> None:
    assert spread([1.0, 1.1, 0.9, 1.0, 50.0]) == pytest.approx(0.1)
