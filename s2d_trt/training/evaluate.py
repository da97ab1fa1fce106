"""Held-out loss of each exit, and how often its top token is a target's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaForCausalLM

from s2d_trt.training.model import Exits


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures over held-out windows; standard errors are taken over windows, whose positions are correlated."""

    exits: tuple[int, ...]
    positions: int
    loss: tuple[float, ...]
    agreement: dict[str, tuple[float, ...]]
    """Share of positions where the exit's top token is the target's, by target."""
    step_error: dict[str, tuple[float, ...]]
    """Standard error of the step from each exit to the next (paired), by target."""


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM,
    exits: Sequence[int],
    windows: np.ndarray,
    targets: Mapping[str, LlamaForCausalLM],
    batch: int = 8,
) -> Evaluation:
    """Evaluate every exit of ``model`` on ``windows`` (int64 ``[n, T + 1]``) against each target's greedy choice."""
    model.eval()
    where = next(model.parameters()).device
    losses = []
    hits: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    with ExitStack() as stack:
        drafts = stack.enter_context(closing(Exits(model, exits)))
        references = {
            name: stack.enter_context(closing(Exits(target.to(where).eval(), [len(target.model.layers)])))
            for name, target in targets.items()
        }
        for start in range(0, len(windows), batch):
            ids = torch.from_numpy(windows[start : start + batch]).to(where)
            inputs, labels = ids[:, :-1], ids[:, 1:]
            exit_logits = drafts(inputs)
            losses.append([_summed_loss(logits, labels) for logits in exit_logits])
            tops = torch.stack([logits.argmax(-1) for logits in exit_logits])
            for name, reference in references.items():
                hit = (tops == reference(inputs)[0].argmax(-1)).float().mean(-1)
                hits[name].append(hit.cpu().numpy())
    positions = windows.shape[0] * (windows.shape[1] - 1)
    agreement, errors = {}, {}
    for name, parts in hits.items():
        by_window = np.concatenate(parts, axis=1)
        agreement[name] = tuple(float(value) for value in by_window.mean(1))
        errors[name] = tuple(_standard_error(step) for step in np.diff(by_window, axis=0))
    loss = tuple(float(value) / positions for value in np.sum(losses, axis=0))
    return Evaluation(tuple(exits), positions, loss, agreement, errors)


def _summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Cross-entropy in nats, summed over all positions."""
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return loss.item()


def _standard_error(values: np.ndarray) -> float:
    """Of the mean; one value alone has none."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


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
