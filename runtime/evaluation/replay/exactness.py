"""Holding a replay against the real run, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.decoding.options import Options
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.fixed import FixedBudget
from runtime.drafting.learned import PairStatistics
from runtime.drafting.options import Policy
from runtime.drafting.policy import ALONE, DraftingPolicy, Load, Prospect, StepBudget, StepPlanner, confidence
from runtime.drafting.proposal import Outcome, Proposal
from runtime.evaluation.comparison import generate
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.steps import Replay
from runtime.tree.shape import TreeShape

NEAR = 2e-5
"""A confidence so close to its threshold, or two candidates so close to each other, may fall either way: the recorded
candidates were computed in calls of other sizes."""


@dataclass(frozen=True, slots=True)
class Traced(DraftingPolicy):
    """Drafts as ``policy``, and keeps what became of each step."""

    policy: DraftingPolicy
    outcomes: list[Outcome] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    """The smallest distance of a confidence to its threshold, for each step of a fixed policy."""

    @property
    def looks_up(self) -> bool:  # type: ignore[override]
        """As ``policy``."""
        return self.policy.looks_up

    @property
    def needs_costs(self) -> bool:  # type: ignore[override]
        """As ``policy``."""
        return self.policy.needs_costs

    def largest_tree(self, chain: bool) -> TreeShape:
        """As ``policy``."""
        return self.policy.largest_tree(chain)

    def check(self, exits: tuple[int, ...]) -> None:
        """As ``policy``."""
        self.policy.check(exits)

    def open(self, pair: PairStatistics, temperature: float) -> TracedPlanner:
        """A planner that keeps outcomes."""
        return TracedPlanner(self.policy.open(pair, temperature), self)


@dataclass(frozen=True, slots=True)
class TracedPlanner(StepPlanner):
    """Plans as ``planner``."""

    planner: StepPlanner
    trace: Traced

    def plan(self, prospect: Prospect, load: Load = ALONE) -> StepBudget:
        """The planner's budget."""
        budget = self.planner.plan(prospect, load)
        if isinstance(budget, FixedBudget):
            self.trace.margins.append(float("inf"))
            return _Watched(budget.thresholds, budget.rule, self.trace.margins)
        return budget

    def expects_to_draft(self, load: Load) -> bool:
        """As the planner."""
        return self.planner.expects_to_draft(load)

    def learn(self, budget: StepBudget, outcome: Outcome) -> None:
        """Keep the outcome and let the planner learn."""
        self.trace.outcomes.append(outcome)
        self.planner.learn(budget, outcome)


@dataclass(frozen=True, slots=True)
class _Watched(FixedBudget):
    margins: list[float]

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        margin = abs(confidence(paths, children, self.rule) - self.thresholds[exit_index])
        self.margins[-1] = min(self.margins[-1], margin)
        return FixedBudget.answers(self, exit_index, paths, children, backlog)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A step whose replay proposed something else. ``excuse`` says why it may; empty where nothing does."""

    text: int
    step: int
    excuse: str


@dataclass(slots=True)
class Verdict:
    """Steps that were compared, and those that differ."""

    steps: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    outcomes: list[list[Outcome]] = field(default_factory=list)
    """Of the real run, by text."""

    @property
    def faults(self) -> list[Mismatch]:
        """Mismatches without excuse."""
        return [mismatch for mismatch in self.mismatches if not mismatch.excuse]


def check(recorder: Recorder, recording: Recording, options: Options) -> Verdict:
    """Run every text with the policy of ``options``, and replay each step from the same past.

    After each step the replay learns what the real run learned, its times included, so steps are judged one by one. The
    decoder must be a new one: what it learned from earlier texts is not in the replay.
    """
    verdict = Verdict()
    traces: list[tuple[list[Outcome], bool]] = []
    decoder = recorder.decoder
    for record in recording.texts:
        traced = Traced(options.policy.exit)
        seeded = replace(
            options,
            sampling=replace(options.sampling, seed=record.seed),
            policy=Policy(traced, options.policy.tree, options.policy.looks_up),
        )
        request = generate(decoder, record.prompt, seeded)
        if request.tokens != record.tokens:
            verdict.mismatches.append(Mismatch(len(traces), 0, "" if request.exact else "the text itself differs"))
        traces.append((traced.outcomes, request.exact))
    costs = decoder.costs or _any_costs(len(recording.pair.exits))
    chain = all(exact for _, exact in traces)
    while True:
        found = _compare(recording, Replay(recording, Prices(costs), _watched(options.policy), chain), traces)
        if recording.complete or not recorder.complete(recording):
            break
    found.mismatches += verdict.mismatches
    return found


def _watched(policy: Policy) -> Policy:
    return Policy(Traced(policy.exit), policy.tree, policy.looks_up)


def _any_costs(exits: int) -> Costs:
    flat = (1.0,) * len(WIDTHS)
    return Costs(flat, (flat,) * exits, flat)


def _compare(recording: Recording, replay: Replay, traces: Sequence[tuple[list[Outcome], bool]]) -> Verdict:
    verdict = Verdict()
    watched = replay.policy.exit
    assert isinstance(watched, Traced)
    for number, (record, (outcomes, _)) in enumerate(zip(recording.texts, traces, strict=True)):
        text = replay.begin(record)
        verdict.outcomes.append(outcomes)
        for step, outcome in enumerate(outcomes):
            proposal = replay.propose([text])[0]
            verdict.steps += 1
            same = _same(proposal, outcome.proposal) and text.accept(proposal.tree) == outcome.path
            if not same:
                verdict.mismatches.append(Mismatch(number, step, _excuse(watched, proposal, outcome.proposal)))
            text.commit(len(outcome.path))
            # Where the replay did not draft, what drafting took says nothing to its policy.
            if bool(proposal.exits) == bool(outcome.proposal.exits):
                text.note(outcome, 0.0)
    return verdict


def _same(ours: Proposal, theirs: Proposal) -> bool:
    return (
        list(ours.exits) == list(theirs.exits)
        and ours.tree.tokens.tolist() == theirs.tree.tokens.tolist()
        and ours.tree.parents.tolist() == theirs.tree.parents.tolist()
    )


def _excuse(watched: Traced, ours: Proposal, theirs: Proposal) -> str:
    if watched.margins and watched.margins[-1] <= NEAR:
        return f"a confidence {watched.margins[-1]:.1e} from its threshold"
    same_size = len(ours.tree) == len(theirs.tree) and list(ours.exits) == list(theirs.exits)
    if same_size and all(
        abs(a - b) <= NEAR * max(1.0, abs(a))
        for a, b in zip(sorted(ours.tree.logprobs), sorted(theirs.tree.logprobs), strict=True)
    ):
        return "a tie of equal rank"
    return ""
