"""The draft and its projection as one module whose forward pass returns the loss."""

from __future__ import annotations

import torch

from s2d_trt.training.model import Exits
from s2d_trt.training.objective import Objective, Rows


class Student(torch.nn.Module):
    """``exits`` and, if ``teacher_width`` is another width than the draft's, a projection for feature alignment.

    The projection is trained with the draft and discarded at the end. Both are in one module because
    ``DistributedDataParallel`` wraps one.
    """

    def __init__(self, exits: Exits, teacher_width: int | None = None) -> None:
        super().__init__()
        self.exits = exits
        width = exits.model.config.hidden_size
        self.projection: torch.nn.Linear | None = None
        if teacher_width not in (None, width):
            self.projection = torch.nn.Linear(width, teacher_width, bias=False)

    def forward(
        self,
        objective: Objective,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        counted: torch.Tensor,
        teacher: Rows | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and losses of the exits (see ``Objective``) at the ``counted`` positions (bool ``[B, T]``)."""
        rows = self.exits.rows(input_ids, counted)
        if self.projection is not None and teacher is not None:
            rows = [Rows(self.projection(hidden), logits) for hidden, logits in rows]
        return objective(rows, labels[counted], teacher)
