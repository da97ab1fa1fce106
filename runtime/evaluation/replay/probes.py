"""Measuring what steps cost: texts are decoded, alone and together, and held against the measured calls."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from statistics import median

import numpy as np

from runtime.decoding.batch import CallReport
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.proposal import Outcome, StepTimes
from runtime.evaluation.replay.drift import drift, remembered
from runtime.evaluation.replay.prices import Overhead, Prices, Slowness
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording, TextRecord
from runtime.evaluation.replay.steps import Replay, exits_run, levels_run
from runtime.evaluation.throughput import run_all
from runtime.machine.cache import cache_file

FEWEST_PROBES, MOST_PROBES, PROBING_SECONDS = 8, 24, 20.0
"""Each recorded text is a probe, up to so many, and after so many seconds no more than the fewest."""
PROBES_TOGETHER = 6
"""Probes of several texts at a time."""
PROBED_TOKENS, PROBED_TOKENS_TOGETHER = 48, 32
"""New tokens of each text."""
PROBED_DEPTHS = (2, 0, 6, 1)
EXIT_GROUPS, LEVEL_GROUPS, LEAST_STEPS = (2, 4, 7), (2, 3, 5), 12
"""Steps that ran 1, 2 to 3, 4 to 6 and more exits for a text are told apart where there are so many of them, and so are
those with drafts of 1, 2, 3 to 4 and more levels.
"""
BURST = 4.0
"""A step that took more than so many times the median counts as this much: the machine did something else."""


def measured_prices(recorder: Recorder, recording: Recording, options: Options, lanes: Sequence[int] = (1,)) -> Prices:
    """Measure calls (or take the kept costs). Then decode recorded texts again, one at a time and each number of
    ``lanes`` at a time, drafted and alone in turn: what the host adds to each step, and how much longer steps take than
    measured calls.
    """
    decoder, numbers = recorder.decoder, sorted({1, *lanes})
    decoder.prepare(replace(options, policy=Policy(Adaptive())), sequences=numbers[-1])
    assert decoder.costs is not None
    costs, probed = decoder.costs, {texts: _probes(recorder, recording, options, texts) for texts in numbers}
    if not probed[1]:
        return Prices(costs)
    drafts, exact = recorder.draft.identity, f"exact {options.exact}"
    kept = cache_file("drift", decoder.target.identity, drafts, exact, json.dumps(asdict(costs)))
    history = remembered(kept, float(np.mean([probe.logarithm for probe in probed[1]])))
    overheads = [overhead(texts, probes) for texts, probes in probed.items() if probes]
    # Starts differ by the chance of their probes too, which is counted apart. What was measured now drifted from the
    # usual as far as what will be predicted does.
    drifted = math.sqrt(2.0 * max(0.0, drift(history) ** 2 - overheads[0].noise ** 2))
    return Prices(costs, tuple(replace(each, noise=math.hypot(each.noise, drifted)) for each in overheads))


@dataclass(frozen=True, slots=True)
class ProbedStep:
    """A drafted step as it was timed and as its calls are priced. The longest draft has so many ``levels``; ``exits``
    ran for all texts together, for one text at most ``deepest``; so many drafted tokens were ``accepted``.
    """

    real: StepTimes
    priced: StepTimes
    levels: int
    deepest: int
    exits: int
    accepted: int

    def at(self, speed: float) -> ProbedStep:
        """The step on a machine that takes ``speed`` times as long."""
        real = StepTimes(self.real.draft * speed, self.real.verify * speed, self.real.total * speed)
        return replace(self, real=real)


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts that were decoded together: their drafted steps; alone, milliseconds of the target's calls, those that were
    priced, and the host's of a step.
    """

    steps: list[ProbedStep]
    alone_ms: float
    priced_ms: float
    host_ms: float

    @property
    def slowness(self) -> float:
        """Of the target's calls where it ran alone."""
        return self.alone_ms / self.priced_ms

    @property
    def logarithm(self) -> float:
        """Of drafted over lone time, each as a share of its price."""
        ours = sum(step.real.draft + step.real.verify for step in self.steps)
        once = sum(step.priced.draft + step.priced.verify for step in self.steps)
        return math.log(ours / once / self.slowness)


def _probes(recorder: Recorder, recording: Recording, options: Options, texts: int) -> list[Probe]:
    """Decode so many texts at a time; each probe begins with another text."""
    count, probes = len(recording.texts), list[Probe]()
    fewest, most = (min(number, count) for number in (FEWEST_PROBES, MOST_PROBES))
    if texts > 1:
        fewest = most = PROBES_TOGETHER if count else 0
    options = replace(options, max_new_tokens=PROBED_TOKENS_TOGETHER if texts > 1 else PROBED_TOKENS)
    began = time.perf_counter()
    for number in range(most):
        if number >= fewest and time.perf_counter() - began > PROBING_SECONDS:
            break
        chosen = recording.subset([(number * texts + index) % count for index in range(texts)])
        probe = _probed(recorder, chosen, options, number)
        if probe is not None:
            probes.append(probe)
    return probes


def _probed(recorder: Recorder, recording: Recording, options: Options, number: int) -> Probe | None:
    """Decode texts together with a fixed policy and alone; None where they are too short. The policies differ in depth,
    in how many exits run, and in whether tokens are copied too.
    """
    decoder, records, exits = recorder.decoder, recording.texts, len(recording.pair.exits)
    exit_policy = FixedThresholds((0.0 if number % 2 else 0.5,) * (exits - 1) + (0.0,))
    depth = PROBED_DEPTHS[(number + number // len(PROBED_DEPTHS)) % len(PROBED_DEPTHS)]
    tree = replace(exit_policy.largest_tree(chain=True), depth=depth)
    policy = Policy(exit_policy, tree, lookup=number // 2 % 2 == 1)
    options = replace(options, policy=policy, sampling=replace(options.sampling, temperature=recording.temperature))
    drafted = _decoded(decoder, records, options)
    alone = _decoded(decoder, records, replace(options, draft=False, exact=False))
    steps = _drafted_steps(recorder, recording, policy, drafted)
    lone = [report for report in alone.reports if alone.is_whole(report)]
    if not steps or not lone:
        return None
    assert decoder.costs is not None
    texts, costs = len(records), decoder.costs
    return Probe(
        steps,
        sum(report.times.verify for report in lone) * 1e3,
        sum(costs.verify_ms(texts, texts, report.batch.context) for report in lone),
        sum(report.times.total - report.times.verify for report in lone) * 1e3 / len(lone),
    )


@dataclass(frozen=True, slots=True)
class _Decoded:
    requests: list[Request]
    reports: list[CallReport]

    def is_whole(self, report: CallReport) -> bool:
        """Whether all texts decode in a step, and no prompt is computed beside them."""
        return report.batch.texts == len(self.requests) and not report.batch.prompt_rows


def _decoded(decoder: Decoder, records: Sequence[TextRecord], options: Options) -> _Decoded:
    """Decode recorded texts again, together. Raises what an engine raised."""
    scheduler, reports = Scheduler(len(records), offline=True), list[CallReport]()
    scheduler.watchers.append(reports.append)
    requests = []
    for record in records:
        seeded = replace(
            options,
            sampling=replace(options.sampling, seed=record.seed),
            max_new_tokens=min(options.max_new_tokens, record.limit),
        )
        requests.append(decoder.request(record.prompt, seeded))
    run_all(scheduler, requests)
    return _Decoded(requests, reports)


def _drafted_steps(recorder: Recorder, recording: Recording, policy: Policy, decoded: _Decoded) -> list[ProbedStep]:
    """The steps of all texts, with the prices of their calls; only those that a replay repeats."""
    assert recorder.decoder.costs is not None
    prices = Prices(recorder.decoder.costs)
    while True:
        replay = Replay(recording, prices, policy)
        texts = dict(zip(decoded.requests, map(replay.begin, recording.texts), strict=True))
        steps = []
        for report in decoded.reports:
            ours = [(texts[request], outcome) for request, outcome in report.outcomes.items()]
            ours = [(text, outcome) for text, outcome in ours if not text.finished]
            if not ours:
                continue
            replay.step([text for text, _ in ours])
            same = all(_same(outcome, text.outcomes[-1]) for text, outcome in ours)
            exits = [exits_run(outcome.proposal) for _, outcome in ours]
            levels = max(levels_run(outcome.proposal) for _, outcome in ours)
            if same and decoded.is_whole(report) and levels:
                accepted = report.batch.tokens - report.batch.texts
                priced = ours[0][0].outcomes[-1].times
                steps.append(ProbedStep(report.times, priced, levels, max(exits), sum(exits), accepted))
        if recording.complete or not recorder.complete(recording):
            return steps


def _same(real: Outcome, replayed: Outcome) -> bool:
    """Whether the same rows were drafted by the same exits."""
    return len(real.proposal.tree) == len(replayed.proposal.tree) and [*real.proposal.exits] == [
        *replayed.proposal.exits
    ]


def overhead(texts: int, probes: Sequence[Probe]) -> Overhead:
    """What steps of so many texts take beyond measured calls, on average over probes.

    The machine's speed differs from second to second: all times of a probe are taken as those of its usual speed, by
    what the target's calls took alone in the same probe.
    """
    alone = median(probe.slowness for probe in probes)
    steps = [step.at(alone / probe.slowness) for probe in probes for step in probe.steps]
    step_ms = median(probe.host_ms * alone / probe.slowness for probe in probes)
    return Overhead(texts, _slowness(steps, alone), step_ms, *host_milliseconds(steps, step_ms), _noise(probes))


def _noise(probes: Sequence[Probe]) -> float:
    """The standard error of drafted over lone time, from its spread over the probes."""
    if len(probes) < 2:
        return 0.0
    return float(np.std([probe.logarithm for probe in probes], ddof=1)) / math.sqrt(len(probes))


def _slowness(steps: Sequence[ProbedStep], alone: float) -> Slowness:
    """How many times as long as priced calls took."""
    verify = [step.real.verify / step.priced.verify for step in steps]
    draft = [step.real.draft / step.priced.draft for step in steps]
    by_exits = _by([step.deepest for step in steps], EXIT_GROUPS, verify)
    return Slowness(alone, *by_exits, *_by([step.levels for step in steps], LEVEL_GROUPS, draft))


def _by(
    numbers: Sequence[int], limits: Sequence[int], ratios: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The means of ``numbers`` and of ``ratios`` for the groups of numbers that ``limits`` divide."""
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(numbers):
        groups.setdefault(bisect(limits, number), []).append(index)
    known = [groups[group] for group in sorted(groups) if len(groups[group]) >= LEAST_STEPS] or [[*range(len(numbers))]]
    means = [float(np.mean([numbers[index] for index in group])) for group in known]
    return tuple(means), tuple(_mean([ratios[index] for index in group]) for group in known)


def _mean(values: Sequence[float]) -> float:
    return float(np.minimum(values, BURST * np.median(values)).mean())


def host_milliseconds(steps: Sequence[ProbedStep], step_ms: float) -> tuple[float, float, float]:
    """Milliseconds outside engine calls beyond ``step_ms``: of a step that drafts, of each exit that it runs, and of
    each drafted token that is accepted. Least squares; none of them is below 0, and single bursts count little.
    """
    if not steps:
        return 0.0, 0.0, 0.0
    host = np.array([step.real.total - step.real.draft - step.real.verify for step in steps]) * 1e3
    beyond = np.minimum(host, BURST * np.median(host)) - step_ms
    work = np.array([[1.0, step.exits, step.accepted] for step in steps])
    fits = []
    for kinds in chain.from_iterable(combinations(range(3), count) for count in range(4)):
        fitted = np.zeros(3)
        fitted[list(kinds)] = np.linalg.lstsq(work[:, kinds], beyond, rcond=None)[0]
        if fitted.min() >= 0:
            fits.append((float(np.square(work @ fitted - beyond).sum()), fitted.tolist()))
    step_draft, exit_, token = min(fits)[1]
    return step_draft, exit_, token
