"""What steps cost on this machine: the engines' calls as measured, and the host's work between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.costs import Costs
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.measurement import read_costs
from runtime.drafting.options import Policy
from runtime.drafting.proposal import Outcome
from runtime.evaluation.comparison import generate
from runtime.evaluation.replay.exactness import Traced
from runtime.evaluation.replay.steps import Prices
from s2d_trt.errors import OptionError
from s2d_trt.files import write_file
from s2d_trt.reading import read_json

PROBED_TOKENS = 48


def measured_prices(decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options, lanes: int = 1) -> Prices:
    """Measure calls (or take the kept costs), and the host's time in a few drafted steps after each prompt."""
    decoder.prepare(replace(options, policy=Policy(Adaptive())), sequences=lanes)
    assert decoder.costs is not None
    outcomes: list[Outcome] = []
    for depth, prompt in enumerate(prompts):
        traced = Traced(FixedThresholds((0.5,) * (len(decoder.costs.segments) - 1) + (0.0,)))
        shape = replace(traced.largest_tree(chain=True), depth=depth % 4)
        probe = replace(options, policy=Policy(traced, shape), max_new_tokens=PROBED_TOKENS)
        generate(decoder, list(prompt), probe)
        outcomes += traced.outcomes
    step, level = host_milliseconds(outcomes)
    return Prices(decoder.costs, step, level)


def host_milliseconds(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Milliseconds outside engine calls, of a step and of each level that it drafts: a line through the medians."""
    by_levels: dict[int, list[float]] = {}
    for outcome in outcomes:
        times = outcome.times
        by_levels.setdefault(len(outcome.proposal.exits), []).append(
            max(0.0, times.total - times.draft - times.verify) * 1e3
        )
    if not by_levels:
        return 0.0, 0.0
    levels = np.array(sorted(by_levels))
    medians = np.array([np.median(by_levels[level]) for level in levels])
    if len(levels) == 1:
        return float(medians[0]), 0.0
    weights = np.sqrt([len(by_levels[level]) for level in levels])
    slope, offset = np.polyfit(levels, medians, 1, w=weights)
    return max(0.0, float(offset)), max(0.0, float(slope))


def write_prices(prices: Prices, path: Path) -> None:
    """Keep prices in a JSON file. Raises OptionError where it cannot be written."""
    try:
        write_file(path, json.dumps(asdict(prices), indent=1) + "\n")
    except OSError as cause:
        raise OptionError(f"{path} cannot be written ({cause.strerror}); name another place") from cause


def read_prices(path: Path, exits: int) -> Prices:
    """Prices of a draft with so many exits. Raises OptionError."""
    try:
        data = read_json(path)
        costs: Costs | None = read_costs(data["costs"], exits)
        host = float(data["host_step_ms"]), float(data["host_level_ms"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OptionError(f"{path} holds no prices ({cause}); write them with --write-prices") from cause
    if costs is None:
        raise OptionError(f"{path} holds the prices of another kind of draft; measure this pair's")
    return Prices(costs, *host)
