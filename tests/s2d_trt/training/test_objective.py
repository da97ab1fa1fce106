"""The SoFT loss against its formula, written out."""

from __future__ import annotations

import math

import pytest
import torch

from s2d_trt.errors import OptionError
from s2d_trt.training.objective import Objective, Rows

N, D, V = 6, 5, 7


def example(exits: int) -> tuple[list[Rows], torch.Tensor, Rows]:
    generator = torch.Generator().manual_seed(0)

    def rows() -> Rows:
        return Rows(torch.randn(N, D, generator=generator), torch.randn(N, V, generator=generator))

    return [rows() for _ in range(exits)], torch.randint(V, (N,), generator=generator), rows()


def formula(
    rows: Rows, labels: torch.Tensor, teacher: Rows | None = None, distill: float = 0, align: float = 0
) -> float:
    """Sum over positions of (1 - distill) * -log p(label) + distill * sum q log(q / p) + align * mean of distances."""
    total = 0.0
    for n in range(N):
        p = torch.softmax(rows.logits[n].double(), -1).tolist()
        total += (1 - distill) * -math.log(p[int(labels[n])])
        if teacher is not None:
            q = torch.softmax(teacher.logits[n].double(), -1).tolist()
            total += distill * sum(q[v] * math.log(q[v] / p[v]) for v in range(V))
            gaps = (rows.hidden[n] - teacher.hidden[n]).abs().tolist()
            total += align * sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / D
    return total


@pytest.mark.parametrize(("distill", "align"), [(0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (0.0, 2.0), (0.4, 0.5)])
def test_the_loss_is_the_weighted_sum_over_the_exits(distill: float, align: float) -> None:
    exits, labels, teacher = example(3)
    weights = (0.4, 0.6, 1.0)
    total, losses = Objective(weights, distill, align)(exits, labels, teacher)
    expected = sum(w * formula(x, labels, teacher, distill, align) for w, x in zip(weights, exits, strict=True))
    assert float(total) == pytest.approx(expected / sum(weights), rel=1e-5)
    assert losses.tolist() == pytest.approx([formula(x, labels) for x in exits], rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy_whatever_the_share_of_distillation() -> None:
    exits, labels, _ = example(1)
    total, losses = Objective((1.0,), distill=0.9, align=1.0)(exits, labels, None)
    assert float(total) == pytest.approx(float(losses[0]))


def test_a_model_taught_by_itself_has_nothing_to_learn() -> None:
    exits, labels, _ = example(1)
    total, _ = Objective((1.0,), distill=1.0, align=1.0)(exits, labels, exits[0])
    assert float(total) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("rows", [V - 2, V + 2])
def test_a_teacher_with_other_padding_is_compared_where_both_have_rows(rows: int) -> None:
    exits, labels, teacher = example(1)
    same = min(rows, V)
    padded = Rows(teacher.hidden, torch.cat([teacher.logits, torch.randn(N, 2)], -1)[:, :rows])
    total, _ = Objective((1.0,), distill=1.0)(exits, labels, padded)
    p = exits[0].logits.double().log_softmax(-1)[:, :same]
    q = padded.logits[:, :same].double().log_softmax(-1)
    assert float(total) == pytest.approx(float((q.exp() * (q - p)).sum()), rel=1e-5)


def test_only_the_ratio_of_the_weights_counts() -> None:
    exits, labels, _ = example(2)
    one, _ = Objective((1.0, 3.0))(exits, labels, None)
    ten, _ = Objective((10.0, 30.0))(exits, labels, None)
    assert float(one) == pytest.approx(float(ten))


def test_every_exit_with_weight_gets_a_gradient() -> None:
    exits, labels, _ = example(3)
    leaves = [x.logits.requires_grad_() for x in exits]
    total, _ = Objective((1.0, 0.0, 1.0))(exits, labels, None)
    total.backward()
    sizes = [0.0 if x.grad is None else float(x.grad.abs().sum()) for x in leaves]
    assert sizes[0] > 0
    assert sizes[1] == 0
    assert sizes[2] > 0


def test_the_plain_loss_is_the_last_exits() -> None:
    exits, labels, _ = example(3)
    total, losses = Objective.last_exit(3)(exits, labels, None)
    assert float(total) == pytest.approx(float(losses[2]))


def test_positions_that_no_one_asked_for_cost_nothing() -> None:
    nothing = Rows(torch.zeros(0, D), torch.zeros(0, V))
    total, losses = Objective((1.0,))([nothing], torch.zeros(0, dtype=torch.int64), None)
    assert total.tolist() == losses[0].tolist() == 0.0


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.1)])
def test_weights_that_weigh_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="exit weights"):
        Objective(weights)


@pytest.mark.parametrize("distill", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(distill: float) -> None:
    with pytest.raises(OptionError, match="must lie between 0 and 1"):
        Objective((1.0,), distill)


def test_a_negative_weight_of_alignment_is_refused() -> None:
    with pytest.raises(OptionError, match="is not negative"):
        Objective((1.0,), align=-1.0)
