"""What steps cost on this machine: the engines' calls as measured, and the host's work between them."""

from __future__ import annotations

import json
import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from runtime.decoding.options import Options
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.costs import Costs
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.measurement import read_costs
from runtime.drafting.options import Policy
from runtime.drafting.proposal import Outcome
from runtime.evaluation.comparison import generate, target_alone
from runtime.evaluation.replay.drift import drift, remembered
from runtime.evaluation.replay.exactness import Traced
from runtime.evaluation.replay.recorder import Recorder, replayed
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.steps import Prices, Slowness, exits_run
from runtime.machine.cache import cache_file
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result
from s2d_trt.reading import read_json

PROBED_TEXTS, PROBED_TOKENS = 8, 48
PROBED_DEPTHS = (2, 0, 3, 1)
EXIT_GROUPS, LEAST_STEPS = (2, 4, 7), 12
"""Steps that ran 1, 2 to 3, 4 to 6 and more exits are told apart where there are so many of them."""
BURST = 4.0
"""A step that took more than so many times the median counts as this much: the machine did something else."""


def measured_prices(recorder: Recorder, recording: Recording, options: Options, lanes: int = 1) -> Prices:
    """Measure calls (or take the kept costs). Then decode the first texts again, drafted and alone in turn: what the
    host adds to each step, and how much longer steps take than measured calls.
    """
    decoder = recorder.decoder
    decoder.prepare(replace(options, policy=Policy(Adaptive())), sequences=lanes)
    assert decoder.costs is not None
    plain = Prices(decoder.costs)
    probes = [
        _probed(recorder, recording.subset([index]), plain, options, index)
        for index in range(min(PROBED_TEXTS, len(recording.texts)))
    ]
    probes = [probe for probe in probes if probe.steps]
    prices = priced(decoder.costs, probes)
    if not probes:
        return prices
    drafts, exact = recorder.draft.identity, f"exact {options.exact}"
    kept = cache_file("drift", decoder.target.identity, drafts, exact, json.dumps(asdict(decoder.costs)))
    # What was measured now drifted from the usual as far as what will be predicted does.
    drifted = math.sqrt(2.0) * drift(remembered(kept, float(np.mean([probe.logarithm for probe in probes]))))
    return replace(prices, noise=math.hypot(prices.noise, drifted))


@dataclass(frozen=True, slots=True)
class Probe:
    """A text as it was decoded, and as it was priced: for each drafted step both outcomes; alone, milliseconds of the
    target's calls, those that were priced, and the host's of a step.
    """

    steps: list[tuple[Outcome, Outcome]]
    alone_ms: float
    priced_ms: float
    host_ms: float

    @property
    def logarithm(self) -> float:
        """Of drafted over lone time, each as a share of its price."""
        ours = sum(real.times.draft + real.times.verify for real, _ in self.steps)
        once = sum(priced.times.draft + priced.times.verify for _, priced in self.steps)
        return math.log(ours / once) - math.log(self.alone_ms / self.priced_ms)


def _probed(recorder: Recorder, recording: Recording, prices: Prices, options: Options, index: int) -> Probe:
    """Decode one text with a fixed policy and alone. The policies differ in depth and in how many exits run."""
    decoder, record, exits = recorder.decoder, recording.texts[0], len(recording.pair.exits)
    policy = FixedThresholds((0.0 if index % 2 else 0.5,) * (exits - 1) + (0.0,))
    traced = Traced(policy)
    depth = PROBED_DEPTHS[index // 2 % len(PROBED_DEPTHS)]
    probe = replace(
        options,
        sampling=replace(options.sampling, temperature=recording.temperature, seed=record.seed),
        policy=Policy(traced, replace(traced.largest_tree(chain=True), depth=depth)),
        max_new_tokens=min(PROBED_TOKENS, record.limit),
    )
    generate(decoder, record.prompt, probe)
    replay = replayed(recorder, recording, prices, replace(probe.policy, exit=policy))[0]
    stats = target_alone(decoder, record.prompt, probe).stats
    return Probe(
        list(zip(traced.outcomes, replay.outcomes, strict=False)) if stats.steps else [],
        stats.verify * 1e3,
        prices.alone_ms(record, steps=stats.steps),
        stats.other * 1e3 / max(1, stats.steps),
    )


def priced(costs: Costs, probes: Sequence[Probe]) -> Prices:
    """Prices that agree with the probes, on average."""
    if not probes:
        return Prices(costs)
    steps = [step for probe in probes for step in probe.steps]
    alone = median(probe.alone_ms / probe.priced_ms for probe in probes)
    slowness = _slowness([step for step in steps if step[0].proposal.exits], alone)
    step_ms = median(probe.host_ms for probe in probes)
    drafting = host_milliseconds([real for real, _ in steps], step_ms)
    return Prices(costs, step_ms, *drafting, slowness, _noise(probes))


def _noise(probes: Sequence[Probe]) -> float:
    """The standard error of drafted over lone time, from its spread over the probes."""
    if len(probes) < 2:
        return 0.0
    return float(np.std([probe.logarithm for probe in probes], ddof=1)) / math.sqrt(len(probes))


def _slowness(steps: Sequence[tuple[Outcome, Outcome]], alone: float) -> Slowness:
    """How many times as long as priced calls took, by the exits that ran in a step; single bursts count little."""
    groups: dict[int, list[tuple[Outcome, Outcome]]] = {}
    for step in steps:
        groups.setdefault(bisect(EXIT_GROUPS, exits_run(step[0].proposal)), []).append(step)
    known = [groups[index] for index in sorted(groups) if len(groups[index]) >= LEAST_STEPS] or (
        [list(steps)] if steps else []
    )
    if not known:
        return Slowness(alone)
    return Slowness(
        alone,
        tuple(float(np.mean([exits_run(real.proposal) for real, _ in group])) for group in known),
        tuple(_mean([real.times.verify / once.times.verify for real, once in group]) for group in known),
        tuple(_mean([real.times.draft / once.times.draft for real, once in group]) for group in known),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.minimum(values, BURST * np.median(values)).mean())


def host_milliseconds(outcomes: Sequence[Outcome], step_ms: float) -> tuple[float, float]:
    """Milliseconds outside engine calls beyond ``step_ms``, of a step that drafts and of each exit that it runs: a line
    through the means.
    """
    by_exits: dict[int, list[float]] = {}
    for outcome in outcomes:
        if outcome.proposal.exits:
            times = outcome.times
            host = max(0.0, times.total - times.draft - times.verify) * 1e3
            by_exits.setdefault(exits_run(outcome.proposal), []).append(host)
    if not by_exits:
        return 0.0, 0.0
    exits = np.array(sorted(by_exits))
    means = np.array([_mean(by_exits[count]) for count in exits]) - step_ms
    weights = np.sqrt([len(by_exits[count]) for count in exits])
    slope, offset = np.polyfit(exits, means, 1, w=weights) if len(exits) > 1 else (0.0, means[0])
    if offset < 0 or slope < 0:  # through the origin, or flat: neither part of the work takes less than nothing
        total = float(np.average(means, weights=weights**2))
        slope, offset = (total / float(np.average(exits, weights=weights**2)), 0.0) if offset < 0 else (0.0, total)
    return max(0.0, float(offset)), max(0.0, float(slope))


def write_prices(prices: Prices, path: Path) -> None:
    """Keep prices in a JSON file. Raises OptionError where it cannot be written."""
    write_result(path, json.dumps(asdict(prices), indent=1) + "\n")


def read_prices(path: Path, exits: int) -> Prices:
    """Prices of a draft with so many exits. Raises OptionError."""
    try:
        data = read_json(path)
        costs: Costs | None = read_costs(data["costs"], exits)
        host = data["host_step_ms"], data["host_draft_ms"], data["host_exit_ms"]
        kept = msgspec.convert((*host, data["slowness"], data["noise"]), tuple[float, float, float, Slowness, float])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OptionError(f"{path} holds no prices ({cause}); delete it, --prices then measures") from cause
    if costs is None:
        raise OptionError(f"{path} holds the prices of another kind of draft; measure this pair's")
    return Prices(costs, *kept)
