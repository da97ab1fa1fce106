"""The training loop: accumulate, clip, step; resumable at any step and deterministic given a seed.

Accelerate places the model and averages gradients over processes, so the same loop runs on one CPU and on several GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from tqdm import tqdm
from transformers import PreTrainedModel

from s2d_trt.errors import OptionError
from s2d_trt.files import replacing_file
from s2d_trt.training import attention
from s2d_trt.training.model import Exits
from s2d_trt.training.muon import Muon
from s2d_trt.training.recipe import Recipe
from s2d_trt.training.student import Student
from s2d_trt.training.windows import IGNORED, Windows


def uses_bf16(precision: str, where: torch.device) -> bool:
    """Whether passes are bf16: with ``bf16``, and with ``auto`` if bf16 products are native (emulation is slow)."""
    native = where.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bf16" or (precision == "auto" and native)


class Trainer:
    """Trains ``model`` by ``recipe`` on ``windows``; ``state_file`` holds the state of a stopped run."""

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        windows: Windows,
        state_file: Path,
        teacher: PreTrainedModel | None = None,
        compile_layers: bool = True,
    ) -> None:
        self.recipe, self.state_file = recipe, state_file
        self._windows = {times: windows.stretched(times) for times in (1, recipe.stretch)}
        self._fingerprint = _fingerprint(recipe, model, windows, teacher)
        projects = teacher is not None and recipe.objective.align > 0
        # The projection has no gradient in steps without the teacher.
        idle = projects and not recipe.objective_at(0).asks_teacher
        self.accelerator = Accelerator(
            mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)]
        )
        _check_processes(self.accelerator)
        fewest = recipe.batch_windows // recipe.stretch
        if fewest % self.accelerator.num_processes:
            raise OptionError(f"{fewest} windows do not share out over {self.accelerator.num_processes} processes")
        self._is_main = bool(self.accelerator.is_main_process)
        device = self.accelerator.device
        self._bf16 = uses_bf16(recipe.precision, device)
        self.exits = Exits(model.to(device), recipe.exits)
        self.teacher = None if teacher is None else Exits.last(teacher.to(device).eval())
        fast = self._bf16 and device.type == "cpu"
        self._attention = attention.use(model, attention.NAME if fast else model.config._attn_implementation)
        if compile_layers:
            self.exits.compile_layers()
            if self.teacher is not None:
                self.teacher.compile_layers()
        torch.manual_seed(recipe.seed)
        student = Student(self.exits, teacher.config.hidden_size if teacher is not None and projects else None)
        self._unwrapped = student.to(device).train()
        self.optimizers = self._make_optimizers()
        self.student, *self.optimizers = self.accelerator.prepare(student, *self.optimizers)
        self.step = 0

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes files."""
        return self._is_main

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        matrices = [p for layer in self.exits.model.model.layers for p in layer.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self._unwrapped.parameters() if id(p) not in chosen]
        adamw: dict[str, Any] = {"lr": recipe.lr, "betas": (0.9, 0.95), "fused": True}
        if recipe.optimizer == "adamw":
            groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
            return [torch.optim.AdamW(groups, **adamw)]
        dtype = torch.bfloat16 if self._bf16 else torch.float32
        return [
            Muon(matrices, recipe.lr, weight_decay=recipe.weight_decay, dtype=dtype),
            torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
        ]

    def train(self, save_every: int = 100, progress: bool = True) -> list[float]:
        """Run the remaining steps; returns each exit's loss in nats, as a moving average.

        Raises:
            OptionError: the state file is damaged, belongs to another run or cannot be written, or the GPU has too
                little memory, or a loss or weight is not finite.
        """
        self._resume()
        smoothed: list[float] = []
        progress = progress and self.is_main
        bar = tqdm(total=self.recipe.steps, initial=self.step, unit="step", disable=not progress, mininterval=5)
        with bar, _denormals_flushed():
            while self.step < self.recipe.steps:
                try:
                    losses = self.train_step()
                except torch.OutOfMemoryError as cause:
                    raise OptionError(
                        f"a pass does not fit {self.accelerator.device}; lower --micro-batch or --seq-length,"
                        " or add --gradient-checkpointing"
                    ) from cause
                if not all(map(math.isfinite, losses)):
                    raise self._diverged(f"a loss of step {self.step + 1} is {losses}")
                self.step += 1
                smoothed = [0.95 * a + 0.05 * b for a, b in zip(smoothed, losses, strict=True)] if smoothed else losses
                bar.update()
                bar.set_postfix_str(
                    " ".join(f"exit{e}={v:.3f}" for e, v in zip(self.recipe.exits, smoothed, strict=True))
                )
                if self.step % save_every == 0 or self.step == self.recipe.steps:
                    self.save()
        return smoothed

    def close(self) -> None:
        """Remove the hooks, release the teacher and leave the process group."""
        self.exits.close()
        attention.use(self.exits.model, self._attention)
        self.teacher = None
        self.accelerator.wait_for_everyone()
        # Delete the wrapper first: if it held the last reference to the process group, freeing it could deadlock.
        del self.student
        self.optimizers.clear()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def train_step(self) -> list[float]:
        """Train on the next batch; returns each exit's loss in nats. Only ``train`` advances ``step``."""
        recipe, accelerator = self.recipe, self.accelerator
        stretch = recipe.stretch_at(self.step)
        share = recipe.batch_windows // stretch // accelerator.num_processes
        first = self.step * recipe.batch_windows // stretch + accelerator.process_index * share
        batch = self._windows[stretch].batch(first, share)
        inputs, labels = (torch.from_numpy(part).to(accelerator.device) for part in batch)
        # Divide by the tokens of the whole batch, so that each counts the same in every pass and process.
        counted = int(accelerator.reduce((labels != IGNORED).sum(), "sum").clamp(min=1))
        losses = torch.zeros(len(recipe.exits), device=accelerator.device)
        micro_windows = recipe.micro_windows // stretch
        passes = list(zip(inputs.split(micro_windows), labels.split(micro_windows), strict=True))
        for index, micro in enumerate(passes):
            last = index == len(passes) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.student):
                losses += self._pass(*micro, counted)
        accelerator.clip_grad_norm_(self._unwrapped.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (accelerator.reduce(losses, "sum") / counted).tolist()

    def _pass(self, inputs: torch.Tensor, labels: torch.Tensor, counted: int) -> torch.Tensor:
        """Forward and backward over some windows of the batch; the summed loss of each exit."""
        objective = self.recipe.objective_at(self.step)
        chosen = labels != IGNORED
        teacher = None
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._bf16):
            if self.teacher is not None and objective.asks_teacher:
                with torch.no_grad():
                    teacher = self.teacher.rows(inputs, chosen)[0]
            loss, losses = self.student(objective, inputs, labels, chosen, teacher)
        # Gradients are averaged over processes, but the loss is a sum over them.
        self.accelerator.backward(loss * (self.accelerator.num_processes / counted))
        return losses

    def _diverged(self, sign: str) -> OptionError:
        return OptionError(
            f"training diverged: {sign}; nothing is published. Begin again with a lower --lr, or mend the"
            f" data; {self.state_file}, if there is one, holds the last step that was saved"
        )

    def save(self) -> None:
        """Write ``state_file``, in the main process only.

        Raises:
            OptionError: it cannot be written, or a weight is not finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self._unwrapped.parameters()):
            raise self._diverged(f"after step {self.step} a weight is NaN or infinite")
        if not self.is_main:
            return
        state = {
            "fingerprint": self._fingerprint,
            "step": self.step,
            "student": self._unwrapped.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        try:
            with replacing_file(self.state_file) as scratch:
                torch.save(state, scratch)
        except (OSError, RuntimeError) as cause:  # torch.save raises RuntimeError too
            raise OptionError(
                f"{self.state_file} cannot be written ({cause}); make room there or choose another --state"
            ) from cause

    def _resume(self) -> None:
        if not self.state_file.exists():
            return
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
            fingerprint = state["fingerprint"]
        except Exception as cause:  # torch raises many types for a damaged file
            raise OptionError(f"{self.state_file} is no saved run; delete it or choose another --state") from cause
        if fingerprint != self._fingerprint:
            raise OptionError(
                f"{self.state_file} belongs to a run with other settings or data; delete it to start afresh"
            )
        self._unwrapped.load_state_dict(state["student"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """They are slow. The setting is of the whole process, in which others compare with the smallest numbers."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _check_processes(accelerator: Accelerator) -> None:
    """Refuse anything but plain data parallelism. Raises OptionError."""
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        # Saving, clipping and orthogonalising do not support sharded parameters.
        raise OptionError(f"accelerate is set up for {kind.value}; only plain data parallelism is supported")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise OptionError(
            f"{started} processes were started, and each would train alone: there is no GPU;"
            " set ACCELERATE_USE_CPU=true to train on CPUs"
        )


def _fingerprint(recipe: Recipe, model: PreTrainedModel, windows: Windows, teacher: PreTrainedModel | None) -> str:
    parts = {
        "recipe": dataclasses.asdict(recipe),
        "model": [model.config.to_dict(), weights_digest(model)],
        "teacher": None if teacher is None else weights_digest(teacher),
        "windows": windows.digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of about a thousand numbers of every tensor, enough to tell two models apart."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        flat = parameter.detach().flatten()
        digest.update(flat[:: max(1, len(flat) // 1000)].float().cpu().numpy().tobytes())
    return digest.hexdigest()
