"""The SoFT loss: next-token loss summed over the exits, optionally mixed with distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the loss: ``sum_k weight[k] * ((1 - distill) * CE_k + distill * KL(teacher || exit_k))``.

    Weights are scaled to sum to 1, so the learning rate means the same for any number of exits.
    """

    exit_weights: tuple[float, ...]
    distill: float = 0.0

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.exit_weights) or sum(self.exit_weights) <= 0:
            raise OptionError("exit weights must not be negative, and one must be above 0")
        if not 0.0 <= self.distill <= 1.0:
            raise OptionError(f"distillation weight {self.distill} must lie between 0 and 1")

    def __call__(
        self, exit_logits: Sequence[torch.Tensor], labels: torch.Tensor, teacher_logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[float]]:
        """Return the total loss and the cross-entropy of each exit in nats.

        ``exit_logits``: one ``[B, T, V]`` per exit; ``labels``: ``[B, T]``; ``teacher_logits``: ``[B, T, V]``.
        """
        scale = sum(self.exit_weights)
        teacher = None if teacher_logits is None else teacher_logits.float().log_softmax(-1).flatten(0, 1)
        total = torch.zeros((), dtype=torch.float32, device=labels.device)
        losses = []
        for weight, logits in zip(self.exit_weights, exit_logits, strict=True):
            log_probs = logits.float().log_softmax(-1).flatten(0, 1)
            loss = cross_entropy = F.nll_loss(log_probs, labels.flatten())
            if teacher is not None:
                divergence = F.kl_div(log_probs, teacher, reduction="batchmean", log_target=True)
                loss = (1 - self.distill) * cross_entropy + self.distill * divergence
            total = total + weight / scale * loss
            losses.append(float(cross_entropy.detach()))
        return total, losses
