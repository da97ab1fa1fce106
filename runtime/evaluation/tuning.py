"""Choosing a policy for a pair: search on some source files, judge on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from runtime.decoding.preparation import silent
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.learned import Priors
from runtime.drafting.options import Policy
from runtime.drafting.static import StaticTree
from runtime.evaluation.replay.hindsight import hindsight
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recorder import Recorder, replayed
from runtime.evaluation.replay.recording import Recording, TextRecord
from runtime.evaluation.replay.steps import Replay, ReplayedText
from runtime.evaluation.replay.sweep import Settings, grid, sweep
from runtime.evaluation.statistics import Interval, gain
from runtime.tree.shape import TreeShape
from runtime.tree.static import Path, most_frequent

DEEPEST = 7
GRID, REFINED = 12, 9
"""Thresholds tried for each exit: over all confidences, and around the best."""
TREES = tuple(TreeShape(depth, top_k, nodes) for depth in (2, 4, 6) for top_k in (2, 4) for nodes in (6, 12, 24))
STATIC_NODES = (4, 6, 8, 12, 16, 24)


@dataclass(slots=True)
class Trial:
    """A policy under trial: milliseconds and steps of each text, texts of all recordings in a row."""

    name: str
    policy: Policy
    milliseconds: np.ndarray
    steps: np.ndarray
    chain: bool = True

    def speed(self, tokens: np.ndarray, texts: np.ndarray) -> float:
        """Tokens a millisecond over some texts."""
        return float(tokens[texts].sum() / self.milliseconds[texts].sum())


@dataclass(slots=True)
class Tuning:
    """What was tried and how it fared. ``tuned`` and ``held_out`` are indices of texts."""

    default: Trial
    """What a profile must beat."""
    trials: list[Trial]
    tokens: np.ndarray
    alone: np.ndarray
    """Milliseconds of the target alone, by text."""
    bound: np.ndarray
    achievable: np.ndarray
    """Milliseconds in hindsight: below which no policy of chains can be, and what one that knows the text takes."""
    labels: list[str]
    tuned: np.ndarray
    held_out: np.ndarray
    surface: tuple[Settings, np.ndarray]
    """Every setting of thresholds and depth, with its tokens a millisecond over the tuned texts."""

    def gain(self, ours: Trial, theirs: Trial) -> Interval:
        """How many times as fast a trial is as another on the held-out texts, with its 95 % interval over files."""
        held = self.held_out
        labels = [self.labels[index] for index in held]
        return gain(ours.milliseconds[held], theirs.milliseconds[held], labels)

    @property
    def best(self) -> Trial:
        """The fastest on the tuned texts."""
        return max(self.trials, key=lambda trial: trial.speed(self.tokens, self.tuned))

    @property
    def adopted(self) -> bool:
        """Whether the best is faster than the default beyond doubt on texts that it was not tuned on."""
        return self.best is not self.default and self.gain(self.best, self.default).low > 1.0

    def speedup(self, trial: Trial, texts: np.ndarray) -> float:
        """Over the target alone."""
        return float(self.alone[texts].sum() / trial.milliseconds[texts].sum())

    def accepted(self, trial: Trial, texts: np.ndarray) -> float:
        """Mean accepted tokens of a step."""
        return float(self.tokens[texts].sum() / trial.steps[texts].sum())

    def regret(self, trial: Trial, texts: np.ndarray) -> float:
        """Time beyond the plan that knows the text, as a share of the plan's."""
        return float(trial.milliseconds[texts].sum() / self.achievable[texts].sum() - 1.0)


def split(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Indices to tune on and to judge on: whole files, every second one. Raises ValueError where there is one file."""
    files = sorted(set(labels))
    if len(files) < 2:
        raise ValueError("one source file")
    chosen = set(files[::2])
    inside = np.array([label in chosen for label in labels])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


class Tuner:
    """Searches for the fastest policy of one pair under ``prices``. ``chain`` says whether decoding is exact."""

    def __init__(
        self,
        recorder: Recorder,
        recordings: Sequence[Recording],
        prices: Prices,
        chain: bool = True,
        progress: Callable[[str], None] = silent,
    ) -> None:
        self.recorder, self.recordings, self.prices = recorder, recordings, prices
        self.chain, self.progress = chain, progress
        self.texts = [record for recording in recordings for record in recording.texts]
        self.labels = [record.category or f"text {index}" for index, record in enumerate(self.texts)]
        self.tokens = np.array([len(record.tokens) - 1 for record in self.texts])
        self.tuned, self.held_out = split(self.labels)

    def try_policy(self, name: str, policy: Policy, chain: bool | None = None) -> Trial:
        """Replay all texts; those to tune on and those to judge on apart, so that none learns from the other kind."""
        chain = self.chain if chain is None else chain
        milliseconds, steps = np.zeros(len(self.texts)), np.zeros(len(self.texts), np.int64)
        for part in (self.tuned, self.held_out):
            for index, text in self._replayed(part, policy, chain):
                milliseconds[index], steps[index] = text.milliseconds, len(text.outcomes)
        return Trial(name, policy, milliseconds, steps, chain)

    def _replayed(self, texts: np.ndarray, policy: Policy, chain: bool) -> Iterator[tuple[int, ReplayedText]]:
        for places, recording in self._parts(texts):
            yield from zip(places, replayed(self.recorder, recording, self.prices, policy, chain), strict=True)

    def _parts(self, texts: np.ndarray) -> Iterator[tuple[list[int], Recording]]:
        """Each recording's share of ``texts``: their places in the row of all, and the recording of these alone."""
        first = 0
        for recording in self.recordings:
            own = [int(index) for index in texts if first <= index < first + len(recording.texts)]
            if own:
                yield own, recording.subset([index - first for index in own])
            first += len(recording.texts)

    def run(self, fixed: bool = False) -> Tuning:
        """Try what is worth trying, and judge it; with ``fixed`` fixed policies only, against the published one."""
        self.progress("replaying the default")
        published = self.try_policy("published thresholds", Policy(FixedThresholds()))
        trials = [published] if fixed else [self.try_policy("default", Policy()), published]
        self.progress("sweeping thresholds")
        thresholds, surface = self.thresholds()
        trials.append(thresholds)
        self.progress("replaying policies")
        trials.append(self.try_policy("tuned thresholds and lookup", replace(thresholds.policy, lookup=True)))
        if not fixed:
            informed = Adaptive(priors=self._priors())
            trials.append(self.try_policy("adaptive without lookup", Policy(Adaptive(), lookup=False)))
            trials.append(self.try_policy("adaptive, informed", Policy(informed)))
            trials.append(self.try_policy("adaptive, informed, without lookup", Policy(informed, lookup=False)))
        if not self.chain:
            self.progress("replaying trees")
            trials += self._trees(thresholds, fixed)
        self.progress("computing the bound")
        bound, achievable = self._hindsight()
        alone = np.array([self.prices.alone_ms(record) for record in self.texts])
        return Tuning(
            trials[0], trials, self.tokens, alone, bound, achievable, self.labels, self.tuned, self.held_out,
            surface,
        )  # fmt: skip

    def _hindsight(self) -> tuple[np.ndarray, np.ndarray]:
        plans = [plan for recording in self.recordings for plan in hindsight(recording, self.prices, lookup=True)]
        return np.array([plan.bound_ms for plan in plans]), np.array([plan.milliseconds for plan in plans])

    def thresholds(self) -> tuple[Trial, tuple[Settings, np.ndarray]]:
        """The best thresholds and depth for a chain: over all confidences, then around the best of these."""
        settings = grid(self.recordings[0], GRID, range(DEEPEST + 1))
        speeds = self._swept(settings)
        best = int(speeds.argmax())
        finer = _around(settings, best)
        finer_speeds = self._swept(finer)
        chosen = finer.of(int(finer_speeds.argmax())) if finer_speeds.max() > speeds[best] else settings.of(best)
        thresholds, depth = chosen
        policy = Policy(FixedThresholds(thresholds), TreeShape(depth, 1, depth + 2))
        return self.try_policy("tuned thresholds", policy), (settings, speeds)

    def _swept(self, settings: Settings) -> np.ndarray:
        """Tokens a millisecond of each setting over the tuned texts of all recordings."""
        milliseconds = np.zeros(len(settings))
        for _, recording in self._parts(self.tuned):
            milliseconds += sweep(recording, self.prices, settings, self.recorder.complete).milliseconds.sum(axis=1)
        speeds: np.ndarray = self.tokens[self.tuned].sum() / milliseconds
        return speeds

    def _priors(self) -> Priors:
        """What the adaptive policy knows after the tuned texts of the first recording."""
        _, recording = next(self._parts(self.tuned))
        exit_ = Adaptive()
        replay = Replay(recording, self.prices, Policy(exit_), self.chain)
        replay.run()
        return replay.statistics.learned(recording.temperature).priors

    def _trees(self, thresholds: Trial, fixed: bool) -> Iterator[Trial]:
        exits = thresholds.policy.exit
        assert isinstance(exits, FixedThresholds)
        for shape in TREES:
            name = f"tree {shape.depth}x{shape.top_k}/{shape.nodes}"
            yield self.try_policy(name, Policy(exits, shape), chain=False)
        for nodes in STATIC_NODES:
            shape = TreeShape(DEEPEST, 8, nodes)
            frequencies = most_frequent(self._accepted_ranks(), shape)
            depth = max(map(len, frequencies), default=1) - 1
            static = StaticTree(exits.thresholds, exits.rule, frequencies, replace(shape, depth=depth))
            yield self.try_policy(f"static tree of {nodes} nodes", Policy(static), chain=False)
        if not fixed:
            yield self.try_policy("adaptive trees", Policy(), chain=False)

    def _accepted_ranks(self) -> Iterator[Path]:
        """From each position of the tuned texts, the ranks of the text's tokens among the first exit's candidates."""
        for index in self.tuned:
            record = self.texts[index]
            nodes = range(len(record.prompt), len(record.prompt) + len(record.tokens) - 1)
            ranks = [_rank(record, node) for node in nodes]
            for start in range(len(ranks)):
                path = ranks[start : start + DEEPEST + 1]
                unknown = path.index(-1) if -1 in path else len(path)
                yield tuple(path[:unknown])


def _rank(record: TextRecord, node: int) -> int:
    """The rank of the token behind ``node`` among the first exit's candidates; -1 where it is none of them."""
    candidates = record.candidates.get(node)
    ids: list[int] = candidates[0][0][0].tolist() if candidates else []
    token = record.text[node + 1]
    return ids.index(token) if token in ids else -1


def _around(settings: Settings, best: int) -> Settings:
    """A finer grid between the neighbours of one setting, at its depth."""
    thresholds, depth = settings.of(best)
    axes = []
    for axis, value in enumerate(thresholds[:-1]):
        known = np.unique(settings.thresholds[:, axis])
        place = int(np.searchsorted(known, value))
        low, high = known[max(0, place - 1)], known[min(len(known) - 1, place + 1)]
        axes.append(np.linspace(low, high, REFINED))
    mesh = np.stack([part.ravel() for part in np.meshgrid(*axes, [0.0], indexing="ij")], axis=1)
    return Settings(mesh, np.full(len(mesh), depth))
