"""The figures of runs, each with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.evaluation.matrix.runs import Run
from runtime.evaluation.statistics import Interval, bootstrap

MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
"""Spec-Bench counts these categories as one."""


def grouped_category(category: str) -> str:
    """The category as Spec-Bench's tables name it."""
    return "mt_bench" if category in MT_BENCH else category


def speeds(units: Sequence[dict[str, Any]], side: str) -> np.ndarray:
    """Tokens a second of each question: new tokens of all its turns and rounds over their wall time."""
    questions = by_question(units)
    return np.array(
        [sum(u[side]["new_tokens"] for u in group) / sum(u[side]["seconds"] for u in group) for group in questions]
    )


def by_question(units: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Units of the same prompt."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        parts = unit["key"].split("/")
        groups.setdefault(parts[1] if len(parts) > 1 else unit["key"], []).append(unit)
    return list(groups.values())


def speedup(run: Run, category: str | None = None) -> Interval:
    """Mean speed drafted over mean speed of the target alone, as Spec-Bench has it, with its interval over prompts."""
    units = [unit for unit in run.units if category is None or grouped_category(unit["category"]) == category]
    ours, theirs = speeds(units, "drafted"), speeds(units, "alone")
    labels = [group[0]["category"] for group in by_question(units)]
    if category is not None or len(set(labels)) == 1:
        labels = [""] * len(labels)
    return bootstrap(lambda chosen: float(ours[chosen].mean() / theirs[chosen].mean()), labels)


def categories(run: Run) -> list[str]:
    """Categories as Spec-Bench's tables name them, in their order."""
    return list(dict.fromkeys(grouped_category(unit["category"]) for unit in run.units))


def mean_accepted(run: Run, category: str | None = None) -> float:
    """Mean accepted tokens, pooled over the steps of all texts; plain decoding has 1."""
    units = [unit for unit in run.units if category is None or grouped_category(unit["category"]) == category]
    lengths = [length for unit in units for length in unit["drafted"].get("accept_lengths", ())]
    return sum(lengths) / len(lengths) if lengths else 0.0


def identical(run: Run) -> tuple[int, int]:
    """Texts that equal the target's own, and texts; exact ones count if their scores are equal in every bit too."""
    if run.settings["texts"] > 1:
        return sum(unit["bit_identical"] for unit in run.units), sum(unit["texts"] for unit in run.units)
    same = sum(unit["bit_identical"] if unit["exact"] else unit["identical"] for unit in run.units)
    return same, len(run.units)


def seconds_by_part(run: Run) -> dict[str, float]:
    """Seconds of the drafted texts: prefill, draft, verify, other."""
    parts = ("prefill", "draft", "verify", "other")
    return {part: sum(unit["drafted"].get("parts", {}).get(part, 0.0) for unit in run.units) for part in parts}


def exit_shares(run: Run) -> dict[str, float]:
    """Share of the drafted depths that each exit answered."""
    counts: dict[str, int] = {}
    for unit in run.units:
        for exit_, count in unit["drafted"].get("exits", {}).items():
            counts[exit_] = counts.get(exit_, 0) + count
    total = sum(counts.values())
    return {exit_: count / total for exit_, count in sorted(counts.items(), key=lambda item: int(item[0]))}


def acceptance_by_depth(run: Run) -> list[float]:
    """Share of the steps that drafted to depth 1, 2, ... in which a node of that depth was accepted."""
    drafted, accepted = ([unit["drafted"].get(name, []) for unit in run.units] for name in _DEPTHS)
    deepest = max(map(len, drafted), default=0)

    def at(lists: list[list[int]], depth: int) -> int:
        return sum(each[depth] for each in lists if depth < len(each))

    return [at(accepted, depth) / at(drafted, depth) for depth in range(deepest) if at(drafted, depth)]


_DEPTHS = ("drafted_at_depth", "accepted_at_depth")


def calibration(run: Run) -> list[tuple[float, float, int]]:
    """Predicted and observed share of accepted nodes, and how many nodes, for tenths of the prediction."""
    tables = [unit["reliability"] for unit in run.units if "reliability" in unit]
    if not tables:
        return []
    total = np.sum(tables, axis=0)
    return [(predicted / count, hits / count, int(count)) for count, predicted, hits in total.tolist() if count]


def report_lines(run: Run) -> list[str]:
    """A run in words."""
    ours, theirs = speeds(run.units, "drafted"), speeds(run.units, "alone")
    same, texts = identical(run)
    lines = [
        run.title,
        f"  target alone {theirs.mean():.1f} tokens/s, drafted {ours.mean():.1f}",
        f"  speed-up {speedup(run)}, mean accepted {mean_accepted(run):.2f}, identical {same}/{texts}",
    ]
    named = [category for category in categories(run) if category]
    if 1 < len(named) <= 12:
        lines += [
            f"    {category:<16} {speedup(run, category)}, mean accepted {mean_accepted(run, category):.2f}"
            for category in named
        ]
    skipped = ", ".join(f"{category or 'all'} {count}" for category, count in sorted(run.skipped.items()))
    return [*lines, f"  too long, skipped: {skipped}"] if skipped else lines
