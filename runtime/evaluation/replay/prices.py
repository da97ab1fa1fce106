"""What steps cost on this machine: the engines' calls as measured, and the host's work between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np

from runtime.decoding.options import Options
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.costs import Costs
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.measurement import read_costs
from runtime.drafting.options import Policy
from runtime.drafting.proposal import Outcome
from runtime.evaluation.comparison import generate, target_alone
from runtime.evaluation.replay.exactness import Traced
from runtime.evaluation.replay.recorder import Recorder, replayed
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.steps import Prices, Slowness
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result
from s2d_trt.reading import read_json

PROBED_TEXTS, PROBED_TOKENS = 4, 48
BURST = 4.0
"""A step that took more than so many times the median counts as this much: the machine did something else."""


def measured_prices(recorder: Recorder, recording: Recording, options: Options, lanes: int = 1) -> Prices:
    """Measure calls (or take the kept costs). Then decode the first texts again, drafted and alone in turn: what the
    host adds to each step, and how much longer steps take than measured calls.
    """
    decoder = recorder.decoder
    decoder.prepare(replace(options, policy=Policy(Adaptive())), sequences=lanes)
    assert decoder.costs is not None
    prices = Prices(decoder.costs)
    steps: list[tuple[Outcome, Outcome]] = []
    alone: list[float] = []
    drafted: list[float] = []
    for index, record in enumerate(recording.texts[:PROBED_TEXTS]):
        exits = FixedThresholds((0.5,) * (len(recording.pair.exits) - 1) + (0.0,))
        traced = Traced(exits)
        probe = replace(
            options,
            sampling=replace(options.sampling, temperature=recording.temperature, seed=record.seed),
            policy=Policy(traced, replace(traced.largest_tree(chain=True), depth=index % 4)),
            max_new_tokens=min(PROBED_TOKENS, record.limit),
        )
        generate(decoder, record.prompt, probe)
        replay = replayed(recorder, recording.subset([index]), prices, replace(probe.policy, exit=exits))[0]
        probed = list(zip(traced.outcomes, replay.outcomes, strict=False))
        steps += probed
        stats = target_alone(decoder, record.prompt, probe).stats
        if probed and stats.steps:
            alone.append(stats.verify * 1e3 / prices.alone_ms(record, steps=stats.steps))
            ours, priced = (sum(o.times.draft + o.times.verify for o in side) for side in zip(*probed, strict=True))
            drafted.append(ours / priced)
    times = [(real.times, once.times) for real, once in steps]
    slowness = Slowness(
        alone=median(alone) if alone else 1.0,
        verify=_slowness([(real.verify, once.verify) for real, once in times]),
        draft=_slowness([(real.draft, once.draft) for real, once in times]),
    )
    spread = float(np.std(np.log(drafted) - np.log(alone), ddof=1)) if len(alone) > 1 else 0.0
    host = host_milliseconds([real for real, _ in steps])
    return Prices(decoder.costs, *host, slowness, spread / max(1, len(alone)) ** 0.5)


def _slowness(times: Sequence[tuple[float, float]]) -> float:
    """How many times as long as priced calls took, given both; single bursts count little."""
    ratios = [real / priced for real, priced in times if priced]
    return _mean(ratios) if ratios else 1.0


def _mean(values: Sequence[float]) -> float:
    return float(np.minimum(values, BURST * np.median(values)).mean())


def host_milliseconds(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Milliseconds outside engine calls, of a step and of each level that it drafts: a line through the means."""
    by_levels: dict[int, list[float]] = {}
    for outcome in outcomes:
        times = outcome.times
        by_levels.setdefault(len(outcome.proposal.exits), []).append(
            max(0.0, times.total - times.draft - times.verify) * 1e3
        )
    if not by_levels:
        return 0.0, 0.0
    levels = np.array(sorted(by_levels))
    means = np.array([_mean(by_levels[level]) for level in levels])
    if len(levels) == 1:
        return float(means[0]), 0.0
    weights = np.sqrt([len(by_levels[level]) for level in levels])
    slope, offset = np.polyfit(levels, means, 1, w=weights)
    return max(0.0, float(offset)), max(0.0, float(slope))


def write_prices(prices: Prices, path: Path) -> None:
    """Keep prices in a JSON file. Raises OptionError where it cannot be written."""
    write_result(path, json.dumps(asdict(prices), indent=1) + "\n")


def read_prices(path: Path, exits: int) -> Prices:
    """Prices of a draft with so many exits. Raises OptionError."""
    try:
        data = read_json(path)
        costs: Costs | None = read_costs(data["costs"], exits)
        host = float(data["host_step_ms"]), float(data["host_level_ms"])
        noise = float(data["noise"])
        slowness = Slowness(**{name: float(value) for name, value in data["slowness"].items()})
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OptionError(f"{path} holds no prices ({cause}); delete it, --prices then measures") from cause
    if costs is None:
        raise OptionError(f"{path} holds the prices of another kind of draft; measure this pair's")
    return Prices(costs, *host, slowness, noise)
