"""Comparing two runs of the same combinations: what changed beyond noise, and whether a gate is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.evaluation.matrix.figures import by_question, grouped_category, identical, speeds
from runtime.evaluation.matrix.runs import Run
from runtime.evaluation.statistics import Interval, bootstrap
from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Gates:
    """By how much the speed-up of the worst target, and of its worst category, may fall beyond doubt."""

    target: float = 0.02
    category: float = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """New over old speed-up of one combination, all prompts or those of one category."""

    title: str
    category: str
    ratio: Interval

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves no doubt that something changed."""
        return self.ratio.low > 1.0 or self.ratio.high < 1.0

    def __str__(self) -> str:
        where = f"{self.title}{', ' + self.category if self.category else ''}"
        word = "faster" if self.ratio.low > 1 else "slower" if self.ratio.high < 1 else "no change beyond noise"
        return f"{where}: {word}, {self.ratio} times the speed-up"


def pair_runs(old: Sequence[Run], new: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same combination. Raises OptionError where there are none, or two for one."""
    tables: list[dict[tuple[object, ...], Run]] = []
    for runs in (old, new):
        table: dict[tuple[object, ...], Run] = {}
        for run in runs:
            if run.cell in table:
                raise OptionError(f"two runs of {run.title} in one folder; delete one")
            table[run.cell] = run
        tables.append(table)
    pairs = [(run, tables[1][cell]) for cell, run in tables[0].items() if cell in tables[1]]
    if not pairs:
        raise OptionError("the two have no combination of target, draft, temperature, policy and texts in common")
    return pairs


def changes(old: Run, new: Run) -> Iterator[Change]:
    """The change of all prompts, then of each category, prompts paired."""
    ours, theirs = _ratios(new), _ratios(old)
    common = [key for key in ours if key in theirs]
    if not common:
        raise OptionError(f"the runs of {old.title} have no prompt in common")
    ratios = np.log([ours[key][1] / theirs[key][1] for key in common])
    labels = [ours[key][0] for key in common]
    yield Change(new.title, "", _mean(ratios, labels if len(set(labels)) > 1 else [""] * len(labels)))
    for category in dict.fromkeys(map(grouped_category, labels)):
        chosen = [index for index, label in enumerate(labels) if grouped_category(label) == category]
        if category and 1 < len(chosen) < len(labels):
            yield Change(new.title, category, _mean(ratios[chosen], [""] * len(chosen)))


def _mean(ratios: np.ndarray, labels: list[str]) -> Interval:
    return bootstrap(lambda chosen: float(np.exp(ratios[chosen].mean())), labels)


def _ratios(run: Run) -> dict[str, tuple[str, float]]:
    """Category and speed-up of each prompt."""
    groups = by_question(run.units)
    ours, theirs = speeds(run.units, "drafted"), speeds(run.units, "alone")
    keys = [group[0]["key"].split("/", 1)[-1].split("/")[0] for group in groups]
    return {
        key: (group[0]["category"], float(a / b)) for key, group, a, b in zip(keys, groups, ours, theirs, strict=True)
    }


def broken_gates(pairs: Sequence[tuple[Run, Run]], gates: Gates) -> list[str]:
    """Why the new runs must not replace the old ones; empty where nothing speaks against it."""
    broken = []
    for old, new in pairs:
        for change in changes(old, new):
            allowed = gates.category if change.category else gates.target
            if change.ratio.high < 1.0 - allowed:
                broken.append(f"{change} (allowed: {1 - allowed:.2f})")
        (same, texts), (before, all_before) = identical(new), identical(old)
        if same / texts < before / all_before:
            broken.append(f"{new.title}: {same} of {texts} texts identical, {before} of {all_before} before")
    return broken
