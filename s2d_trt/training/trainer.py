"""The training loop: accumulate, clip, step; resumable at any step and deterministic given a seed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM

from s2d_trt.errors import OptionError
from s2d_trt.training.corpus import Windows
from s2d_trt.training.model import Exits
from s2d_trt.training.muon import Muon
from s2d_trt.training.objective import Objective


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the result of a run, together with the model and the corpus."""

    exits: tuple[int, ...]
    objective: Objective
    steps: int
    batch_windows: int
    micro_windows: int
    lr: float
    warmup: float = 0.04
    final_lr: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    distill_from: float = 0.0
    """Share of the steps before distillation begins: a teacher's pass can cost more than the draft's own."""

    def __post_init__(self) -> None:
        if self.batch_windows % self.micro_windows:
            raise OptionError(
                f"a batch of {self.batch_windows} windows is no multiple of the micro-batch {self.micro_windows}"
            )
        if len(self.objective.exit_weights) != len(self.exits):
            raise OptionError(f"{len(self.objective.exit_weights)} exit weights for {len(self.exits)} exits")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to ``final_lr`` of the peak."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(precision: str, where: torch.device) -> contextlib.AbstractContextManager[None]:
    """bf16 autocast; ``auto`` means where the chip multiplies bf16 natively, since emulation is slower than fp32."""
    native = where.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "bf16" or (precision == "auto" and native):
        return torch.autocast(where.type, torch.bfloat16)
    return contextlib.nullcontext()


class Trainer:
    """Trains ``model`` by ``recipe`` on ``windows``; its state lives in ``state_file`` between runs."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        recipe: Recipe,
        windows: Windows,
        state_file: Path,
        teacher: LlamaForCausalLM | None = None,
        compile_layers: bool = True,
    ) -> None:
        self.device = device()
        self.recipe, self.windows, self.state_file = recipe, windows, state_file
        self.exits = Exits(model.to(self.device), recipe.exits)
        self.teacher = None if teacher is None else Exits(teacher.to(self.device).eval(), [len(teacher.model.layers)])
        if compile_layers:
            self.exits.compile_layers()
            if self.teacher is not None:
                self.teacher.compile_layers()
        self.optimizers = self._make_optimizers(model)
        self.step = 0
        self._fingerprint = _fingerprint(recipe, model, windows, teacher)

    def _make_optimizers(self, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        matrices = [p for layer in model.model.layers for p in layer.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        return [
            Muon(matrices, lr=recipe.lr, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]

    def train(self, save_every: int = 100, progress: bool = True) -> list[float]:
        """Run to the last step; returns the smoothed loss of each exit in nats.

        Raises:
            OptionError: the state file is damaged or belongs to another run.
        """
        self._resume()
        torch.set_flush_denormal(True)
        smoothed: list[float] = []
        bar = tqdm(total=self.recipe.steps, initial=self.step, unit="step", disable=not progress, mininterval=5)
        with bar:
            while self.step < self.recipe.steps:
                losses = self._step()
                self.step += 1
                smoothed = [0.95 * a + 0.05 * b for a, b in zip(smoothed, losses, strict=True)] if smoothed else losses
                bar.update()
                bar.set_postfix_str(
                    " ".join(f"exit{e}={v:.3f}" for e, v in zip(self.recipe.exits, smoothed, strict=True))
                )
                if self.step % save_every == 0 or self.step == self.recipe.steps:
                    self._save()
        self.exits.close()
        if self.teacher is not None:
            self.teacher.close()
        return smoothed

    def _step(self) -> list[float]:
        recipe = self.recipe
        batch = torch.from_numpy(self.windows.batch(self.step * recipe.batch_windows, recipe.batch_windows))
        micro_batches = batch.to(self.device).split(recipe.micro_windows)
        losses = [0.0] * len(recipe.exits)
        for micro in micro_batches:
            inputs, labels = micro[:, :-1], micro[:, 1:]
            with autocast(recipe.precision, self.device):
                teacher_logits = None
                if self.teacher is not None and self.step >= recipe.distill_from * recipe.steps:
                    with torch.no_grad():
                        teacher_logits = self.teacher(inputs)[0]
                loss, exit_losses = recipe.objective(self.exits(inputs), labels, teacher_logits)
            (loss / len(micro_batches)).backward()
            losses = [a + b / len(micro_batches) for a, b in zip(losses, exit_losses, strict=True)]
        torch.nn.utils.clip_grad_norm_(self.exits.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return losses

    def _save(self) -> None:
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.state_file.with_name(self.state_file.name + ".partial")
        torch.save(
            {
                "fingerprint": self._fingerprint,
                "step": self.step,
                "model": self.exits.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
            partial,
        )
        partial.replace(self.state_file)

    def _resume(self) -> None:
        if not self.state_file.exists():
            return
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location=self.device, weights_only=True)
            fingerprint = state["fingerprint"]
        except Exception as cause:  # torch names a damaged file by half a dozen kinds
            raise OptionError(f"{self.state_file} is no saved run; delete it or choose another --state") from cause
        if fingerprint != self._fingerprint:
            raise OptionError(
                f"{self.state_file} belongs to a run with other settings or data; delete it to start afresh"
            )
        self.exits.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


def _fingerprint(recipe: Recipe, model: LlamaForCausalLM, windows: Windows, teacher: LlamaForCausalLM | None) -> str:
    parts = {
        "recipe": dataclasses.asdict(recipe),
        "model": model.config.to_dict(),
        "teacher": None if teacher is None else _weights_digest(teacher),
        "windows": windows.digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _weights_digest(model: LlamaForCausalLM) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
