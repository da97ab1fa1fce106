"""The settings that, with the model and the data, determine the result of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from s2d_trt.errors import OptionError
from s2d_trt.training.objective import Objective


@dataclass(frozen=True, slots=True)
class Recipe:
    """Loss, schedule and batch of a run; ``batch_windows`` is the batch of all processes together."""

    exits: tuple[int, ...]
    objective: Objective
    steps: int
    batch_windows: int
    micro_windows: int
    lr: float
    optimizer: str = "muon"
    warmup: float = 0.04
    final_lr: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    pretrain_steps: int = 0
    """Number of first steps that train only the last exit, with the language-model loss."""
    distill_from: float = 0.0
    """Share of the steps without the teacher, whose forward pass can cost more than the draft's whole step."""
    stretch: int = 1
    stretch_from: float = 1.0
    """From this share of the steps on, windows are ``stretch`` times as long, and a step has as many fewer of them."""

    def __post_init__(self) -> None:
        if self.batch_windows % self.micro_windows:
            raise OptionError(
                f"a batch of {self.batch_windows} windows is no multiple of the micro-batch {self.micro_windows}"
            )
        if self.batch_windows % self.stretch or self.micro_windows % self.stretch:
            raise OptionError(
                f"windows {self.stretch} times as long do not share out a batch of {self.batch_windows} windows"
                f" and a micro-batch of {self.micro_windows}"
            )
        if len(self.objective.exit_weights) != len(self.exits):
            raise OptionError(f"{len(self.objective.exit_weights)} exit weights for {len(self.exits)} exits")
        if self.pretrain_steps > self.steps:
            raise OptionError(f"{self.pretrain_steps} steps of pre-training are more than all {self.steps}")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: a linear warm-up, then a cosine down to ``final_lr`` of the peak."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))

    def stretch_at(self, step: int) -> int:
        """How many times as long the windows of a step are."""
        return self.stretch if step >= self.stretch_from * self.steps else 1

    def objective_at(self, step: int) -> Objective:
        """The loss of a step: first pre-training, then without the teacher, then the full objective."""
        if step < self.pretrain_steps:
            return Objective.last_exit(len(self.exits))
        if step < self.distill_from * self.steps:
            return replace(self.objective, distill=0.0, align=0.0)
        return self.objective
