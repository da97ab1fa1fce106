"""Held-out loss of each exit, and how often its top token is a target's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from s2d_trt.training import checkpoint
from s2d_trt.training.model import Exits
from s2d_trt.training.windows import IGNORED, Batch

MOST_LOGITS = 2**26
"""Most logits of an exit in one pass, so that large vocabularies fit in memory; a pass has at least one window."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over held-out windows. Standard errors are over windows, since positions in a window are correlated."""

    exits: tuple[int, ...]
    positions: int
    loss: tuple[float, ...]
    agreement: dict[str, tuple[float, ...]]
    """By target: share of positions where the exit's top token is the target's."""
    step_error: dict[str, tuple[float, ...]]
    """By target: standard error of the difference in agreement between each exit and the next (paired)."""


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, exits: Sequence[int], windows: Batch, targets: Mapping[str, Path], batch: int = 8
) -> Evaluation:
    """Evaluate every exit of ``model`` on the counted positions, then compare its top tokens with each target's.

    Only one target is in memory at a time.
    """
    losses, tops = [], []
    for logits, labels in _passes(model, exits, windows, batch, "held-out loss"):
        flat = labels.flatten()
        losses.append([float(_summed_loss(exit_logits.flatten(0, 1), flat)) for exit_logits in logits])
        tops.append(logits.argmax(-1).cpu().numpy())
    choices = np.concatenate(tops, axis=1)
    counted = windows.labels != IGNORED
    positions = int(counted.sum())
    agreement, errors = {}, {}
    for name, directory in targets.items():
        target = checkpoint.load_frozen(directory).to(next(model.parameters()).device)
        passes = _passes(target, [len(target.model.layers)], windows, batch, f"agreement with {name}")
        theirs = np.concatenate([logits.argmax(-1).cpu().numpy() for logits, _ in passes], axis=1)
        hits = ((choices == theirs) & counted).sum(-1)
        agreement[name] = tuple(float(value) / positions for value in hits.sum(-1))
        errors[name] = tuple(_standard_error(step, counted.sum(-1)) for step in np.diff(hits, axis=0))
    loss = tuple(float(value) / positions for value in np.sum(losses, axis=0))
    return Evaluation(tuple(exits), positions, loss, agreement, errors)


def _passes(
    model: PreTrainedModel, exits: Sequence[int], windows: Batch, batch: int, title: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits ``[exits, B, T, V]`` and labels ``[B, T]`` of each batch of windows."""
    model.eval()
    where = next(model.parameters()).device
    batch = max(1, min(batch, MOST_LOGITS // (windows.inputs.shape[1] * model.config.vocab_size)))
    with closing(Exits(model, exits)) as heads:
        for start in tqdm(range(0, len(windows.inputs), batch), title, disable=None, leave=False):
            inputs, labels = (torch.from_numpy(part[start : start + batch]).to(where) for part in windows)
            yield torch.stack(heads(inputs)), labels


def _summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over the counted positions."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORED)


def _standard_error(sums: np.ndarray, counts: np.ndarray) -> float:
    """Standard error of ``sums.sum() / counts.sum()`` over windows (delta method); NaN for a single window."""
    windows = len(sums)
    if windows < 2:
        return float("nan")
    ratio = sums.sum() / counts.sum()
    residue = sums - ratio * counts
    return float(np.sqrt(windows / (windows - 1) * (residue**2).sum()) / counts.sum())


def table(result: Evaluation) -> str:
    """The figures as a Markdown table."""
    names = list(result.agreement)
    lines = [
        "| exit | held-out loss (nats/token) |" + "".join(f" agreement with {name} |" for name in names),
        "|---|---|" + "---|" * len(names),
    ]
    for index, exit_ in enumerate(result.exits):
        row = f"| {exit_} | {result.loss[index]:.4f} |"
        for name in names:
            row += f" {result.agreement[name][index]:.4f}"
            if index:
                step = result.agreement[name][index] - result.agreement[name][index - 1]
                row += f" ({step:+.4f}, s.e. {result.step_error[name][index - 1]:.4f})"
            row += " |"
        lines.append(row)
    return "\n".join(lines)
