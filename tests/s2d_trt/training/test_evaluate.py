"""Held-out figures: against plain sums over the positions that count, and drawn."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from s2d_trt.training import checkpoint, evaluate
from s2d_trt.training.evaluate import Evaluation, table
from s2d_trt.training.model import Exits
from s2d_trt.training.plot import draw
from s2d_trt.training.windows import IGNORED, Batch, Stream, held_out_windows

RESULT = Evaluation(
    (6, 12), 100, (3.5, 3.25), {"big": (0.5, 0.75), "small": (0.25, 0.125)}, {"big": (0.01,), "small": (math.nan,)}
)


@pytest.fixture(scope="module")
def windows() -> Batch:
    """Five windows, in which the second half of every fourteen tokens counts."""
    ids = np.random.default_rng(2).integers(0, 40, 60, dtype=np.int32)
    return held_out_windows(Stream(ids, np.arange(60) % 14 > 6), 11, 5)


def test_loss_and_agreement_are_means_over_the_positions_that_count(target: Path, windows: Batch) -> None:
    draft, whole = checkpoint.load(target, 2), checkpoint.load(target)
    result = evaluate.evaluate(draft, (1, 2), windows, {"target": target}, batch=2)
    counted = windows.labels != IGNORED
    assert result.positions == counted.sum()
    inputs = torch.from_numpy(windows.inputs)
    with torch.no_grad():
        exits, theirs = Exits(draft, (1, 2))(inputs), whole(inputs).logits.argmax(-1).numpy()
    for index, logits in enumerate(exits):
        log_probs = logits.double().log_softmax(-1).numpy()
        places = np.argwhere(counted)
        losses = [-log_probs[row, column, windows.labels[row, column]] for row, column in places]
        assert result.loss[index] == pytest.approx(np.mean(losses), rel=1e-5)
        same = (logits.argmax(-1).numpy() == theirs)[counted]
        assert result.agreement["target"][index] == pytest.approx(same.mean())


@pytest.mark.parametrize("most", [1, 11 * 320 * 3])
def test_the_figures_do_not_depend_on_how_many_windows_a_pass_takes(
    most: int, target: Path, windows: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = checkpoint.load(target, 2)
    expected = evaluate.evaluate(draft, (1, 2), windows, {"target": target})
    monkeypatch.setattr(evaluate, "MOST_LOGITS", most)
    result = evaluate.evaluate(draft, (1, 2), windows, {"target": target})
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (result.positions, result.agreement) == (expected.positions, expected.agreement)


def test_a_model_agrees_with_itself(target: Path, windows: Batch) -> None:
    result = evaluate.evaluate(checkpoint.load(target), (4,), windows, {"target": target})
    assert result.agreement == {"target": (1.0,)}


def test_the_standard_error_of_a_step_is_that_of_the_means_of_equal_windows(target: Path) -> None:
    ids = np.random.default_rng(3).integers(0, 40, 200, dtype=np.int32)
    windows = held_out_windows(Stream.whole(ids), 19, 10)
    draft, whole = checkpoint.load(target, 2), checkpoint.load(target)
    result = evaluate.evaluate(draft, (1, 2), windows, {"target": target})
    inputs = torch.from_numpy(windows.inputs)
    with torch.no_grad():
        theirs = whole(inputs).logits.argmax(-1)
        one, two = ((logits.argmax(-1) == theirs).double().mean(-1).numpy() for logits in Exits(draft, (1, 2))(inputs))
    expected = np.std(two - one, ddof=1) / math.sqrt(len(one))
    assert result.step_error["target"] == pytest.approx((expected,))


def test_the_table_has_a_row_for_each_exit_and_a_column_for_each_target() -> None:
    assert table(RESULT).splitlines() == [
        "| exit | held-out loss (nats/token) | agreement with big | agreement with small |",
        "|---|---|---|---|",
        "| 6 | 3.5000 | 0.5000 | 0.2500 |",
        "| 12 | 3.2500 | 0.7500 (+0.2500, s.e. 0.0100) | 0.1250 (-0.1250, s.e. nan) |",
    ]


def test_the_plot_is_an_image_that_names_every_target_and_is_the_same_each_time() -> None:
    image = draw(RESULT)
    assert ET.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"
    assert all(f">{word}<" in image for word in ("big", "small", "held-out loss", "6", "12"))
    assert draw(RESULT) == image


def test_without_targets_the_plot_is_the_loss_alone() -> None:
    alone = Evaluation((6, 12), 100, (3.5, 3.25), {}, {})
    assert "% of positions" in draw(RESULT)
    assert "% of positions" not in draw(alone)
