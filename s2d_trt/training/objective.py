"""The SoFT loss: next-token loss summed over the exits, optionally with distillation and feature alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from s2d_trt.errors import OptionError


class Rows(NamedTuple):
    """An exit's output at ``N`` positions: hidden states after the final norm ``[N, D]``, logits ``[N, V]``."""

    hidden: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the loss.

    It is ``sum_k weight[k] * ((1 - distill) * CE_k + distill * KL(teacher || exit_k) + align * R_k)``. ``R_k`` is the
    smooth L1 distance of the exit's hidden states from the teacher's last ones, a mean over channels (feature
    alignment, as in EAGLE, arXiv 2401.15077). Weights are scaled to sum to 1, so the learning rate means the same for
    any number of exits.
    """

    exit_weights: tuple[float, ...]
    distill: float = 0.0
    align: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= weight < math.inf for weight in self.exit_weights) or sum(self.exit_weights) <= 0:
            raise OptionError("exit weights must be numbers that are not negative, and one must be above 0")
        if not 0.0 <= self.distill <= 1.0:
            raise OptionError(f"distillation weight {self.distill} must lie between 0 and 1")
        if not 0 <= self.align < math.inf:
            raise OptionError(f"alignment weight {self.align} must be a number that is not negative")

    @classmethod
    def last_exit(cls, exits: int) -> Objective:
        """The language-model loss of the last exit only, for pre-training and SFT."""
        return cls((0.0,) * (exits - 1) + (1.0,))

    @property
    def asks_teacher(self) -> bool:
        """Whether the loss needs the teacher's output."""
        return self.distill > 0 or self.align > 0

    def __call__(
        self, exits: Sequence[Rows], labels: torch.Tensor, teacher: Rows | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and the cross-entropy of each exit in nats ``[exits]``, both summed over the positions.

        ``labels`` is ``[N]``. If the teacher's vocabulary is padded to another size, only common rows are compared.
        """
        total = torch.zeros((), dtype=torch.float32, device=labels.device)
        goal, rows = None, 0
        if teacher is not None:
            rows = min(teacher.logits.shape[-1], exits[0].logits.shape[-1])
            goal = teacher.logits[:, :rows].float().log_softmax(-1)
        losses = []
        for weight, (hidden, logits) in zip(self.exit_weights, exits, strict=True):
            log_probs = logits.float().log_softmax(-1)
            loss = cross_entropy = F.nll_loss(log_probs, labels, reduction="sum")
            if teacher is not None and goal is not None:
                divergence = F.kl_div(log_probs[:, :rows], goal, reduction="sum", log_target=True)
                loss = (1 - self.distill) * cross_entropy + self.distill * divergence
                if self.align:
                    distance = F.smooth_l1_loss(hidden.float(), teacher.hidden.float(), reduction="none")
                    loss = loss + self.align * distance.mean(-1).sum()
            total = total + weight / sum(self.exit_weights) * loss
            losses.append(cross_entropy.detach())
        return total, torch.stack(losses)
