"""The SoFT loss against its formula, written out."""

from __future__ import annotations

import math

import pytest
import torch

from s2d_trt.errors import OptionError
from s2d_trt.training.objective import Objective

B, T, V = 2, 3, 7


def example(exits: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(B, T, V, generator=generator) for _ in range(exits)]
    return logits, torch.randint(V, (B, T), generator=generator), torch.randn(B, T, V, generator=generator)


def formula(logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, distill: float) -> float:
    """Mean over positions of (1 - distill) * -log p(label) + distill * sum q log(q / p)."""
    total = 0.0
    for b in range(B):
        for t in range(T):
            p = torch.softmax(logits[b, t].double(), -1).tolist()
            total += (1 - distill) * -math.log(p[int(labels[b, t])])
            if teacher is not None:
                q = torch.softmax(teacher[b, t].double(), -1).tolist()
                total += distill * sum(q[v] * math.log(q[v] / p[v]) for v in range(V))
    return total / (B * T)


@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_over_the_exits(distill: float) -> None:
    logits, labels, teacher = example(3)
    weights = (0.4, 0.6, 1.0)
    total, losses = Objective(weights, distill)(logits, labels, teacher)
    expected = sum(w * formula(x, labels, teacher, distill) for w, x in zip(weights, logits, strict=True)) / sum(
        weights
    )
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert losses == pytest.approx([formula(x, labels, None, 0.0) for x in logits], rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy_whatever_the_share_of_distillation() -> None:
    logits, labels, _ = example(1)
    total, losses = Objective((1.0,), distill=0.9)(logits, labels, None)
    assert float(total) == pytest.approx(losses[0])


def test_a_model_distilled_from_itself_has_no_divergence() -> None:
    logits, labels, _ = example(1)
    total, _ = Objective((1.0,), distill=1.0)(logits, labels, logits[0])
    assert float(total) == pytest.approx(0.0, abs=1e-6)


def test_only_the_ratio_of_the_weights_counts() -> None:
    logits, labels, _ = example(2)
    one, _ = Objective((1.0, 3.0))(logits, labels, None)
    ten, _ = Objective((10.0, 30.0))(logits, labels, None)
    assert float(one) == pytest.approx(float(ten))


def test_every_exit_with_weight_gets_a_gradient() -> None:
    logits, labels, _ = example(3)
    leaves = [x.requires_grad_() for x in logits]
    total, _ = Objective((1.0, 0.0, 1.0))(leaves, labels, None)
    total.backward()
    sizes = [0.0 if x.grad is None else float(x.grad.abs().sum()) for x in leaves]
    assert sizes[0] > 0
    assert sizes[1] == 0
    assert sizes[2] > 0


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.1)])
def test_weights_that_weigh_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="exit weights"):
        Objective(weights)


@pytest.mark.parametrize("distill", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(distill: float) -> None:
    with pytest.raises(OptionError, match="must lie between 0 and 1"):
        Objective((1.0,), distill)
