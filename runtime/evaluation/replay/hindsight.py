"""The best that any policy of chains could do, knowing the text: the bound against which policies are measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.drafting.learned import PairStatistics
from runtime.drafting.ngram import NgramIndex
from runtime.drafting.options import Policy
from runtime.drafting.policy import ALONE, DraftingPolicy, Load, Prospect, StepBudget, StepPlanner
from runtime.drafting.proposal import Outcome
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recording import Recording, TextRecord
from runtime.evaluation.replay.steps import Replay
from runtime.tree.shape import TreeShape

DEEPEST = 16
"""Most drafted tokens of a step in the search."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The best chains of one text. ``bound_ms`` leaves the draft's catching up unpaid, so nothing is faster;
    ``milliseconds`` is what the plan takes, all paid. ``plan`` has the exit of each drafted token, by text position.
    """

    bound_ms: float
    milliseconds: float
    plan: dict[int, list[int]]


def hindsight(recording: Recording, prices: Prices, lookup: bool = False) -> list[Hindsight]:
    """For each text the fastest way through it: the shortest path over its positions, steps being the edges.

    An edge drafts tokens that the target accepts, each by the first exit that knows it. With ``lookup`` an edge of the
    bound may copy them from the text instead; plans do without. What a deeper exit's first answer costs depends on all
    steps before it, so plans that use only the first exits are tried too.
    """
    exits = len(recording.pair.exits)
    return [_of_text(recording.subset([index]), exits, prices, lookup) for index in range(len(recording.texts))]


def _of_text(recording: Recording, exits: int, prices: Prices, lookup: bool) -> Hindsight:
    record = recording.texts[0]
    bound, _ = _shortest(record, exits, prices, lookup)
    plans = [_shortest(record, used, prices, lookup=False)[1] for used in range(exits + 1)]
    spent = [
        Replay(recording, prices, Policy(Scripted(plan), LONG_CHAIN, False)).run()[0].milliseconds for plan in plans
    ]
    fastest = min(range(len(plans)), key=spent.__getitem__)
    return Hindsight(bound, spent[fastest], plans[fastest])


LONG_CHAIN = TreeShape(depth=DEEPEST - 1, top_k=1, nodes=DEEPEST + 1)


def _shortest(record: TextRecord, exits: int, prices: Prices, lookup: bool) -> tuple[float, dict[int, list[int]]]:
    text, first, end = record.text, len(record.prompt) + 1, len(record.prompt) + len(record.tokens)
    costs = prices.costs
    answer_ms = [
        sum(costs.segment_ms(segment, 1) + costs.head_ms(1) for segment in range(exit_ + 1)) for exit_ in range(exits)
    ]
    copied = _copied(record) if lookup else {}
    best = [0.0] * (end + DEEPEST + 2)
    chosen: dict[int, list[int]] = {}
    for length in range(end - 1, first - 1, -1):
        best[length], chosen[length] = math.inf, []
        draft_ms, run, ran = 0.0, list[int](), 0
        while True:
            after = min(end, length + len(run) + 1)
            verify = prices.verify_ms(1 + len(run), 1, length - 1, ran)
            total = prices.draft_ms(draft_ms, len(run)) + verify + prices.host_ms(len(run), ran, len(run)) + best[after]
            if total < best[length]:
                best[length], chosen[length] = total, list(run)
            node = length - 1 + len(run)
            exit_ = _first_knowing(record, node, text[node + 1], exits) if node + 1 < len(text) else None
            if exit_ is None or len(run) == DEEPEST or after == end:
                break
            run.append(exit_)
            ran += exit_ + 1
            draft_ms += answer_ms[exit_]
        for count in range(1, copied.get(length, 0) + 1):
            verify = prices.verify_ms(1 + count, 1, length - 1)
            total = verify + prices.host_ms(count, 0, count) + best[min(end, length + count + 1)]
            best[length] = min(best[length], total)
    plan, position = {}, first
    while position < end:
        plan[position] = chosen[position]
        position += len(chosen[position]) + 1
    return best[first] if first < end else 0.0, plan


def _first_knowing(record: TextRecord, node: int, token: int, exits: int) -> int | None:
    """The first of so many exits whose best candidate at ``node`` is ``token``."""
    candidates = record.candidates.get(node, [])[:exits]
    return next((index for index, (ids, _) in enumerate(candidates) if int(ids[0, 0]) == token), None)


def _copied(record: TextRecord) -> dict[int, int]:
    """For each length of the text, how many tokens n-gram lookup would get right."""
    index, agreed = NgramIndex(), {}
    index.extend(record.prompt)
    for length in range(len(record.prompt) + 1, len(record.prompt) + len(record.tokens)):
        index.extend(record.text[length - 1 : length])
        draft = index.draft(DEEPEST)
        agreed[length] = draft.agreement(record.text[length:]) if draft else 0
    return agreed


@dataclass(frozen=True, slots=True)
class Scripted(DraftingPolicy):
    """Drafts as a plan says: for each length of the text that is a step's start, the exit of each drafted token."""

    plan: Mapping[int, Sequence[int]]

    looks_up = False

    def largest_tree(self, chain: bool) -> TreeShape:
        """As long as plans go."""
        return LONG_CHAIN

    def open(self, pair: PairStatistics, temperature: float) -> ScriptedPlanner:
        """A planner at the first step."""
        return ScriptedPlanner(self.plan, min(self.plan, default=0))


@dataclass(slots=True)
class ScriptedPlanner(StepPlanner):
    """Reads the plan step by step."""

    plan_of: Mapping[int, Sequence[int]]
    position: int

    def plan(self, prospect: Prospect, load: Load = ALONE) -> ScriptedBudget:
        """What the plan says of this step."""
        return ScriptedBudget(self.plan_of.get(self.position, ()))

    def learn(self, budget: StepBudget, outcome: Outcome) -> None:
        """Go on to the next step."""
        self.position += len(outcome.path)


@dataclass(slots=True)
class ScriptedBudget(StepBudget):
    """Drafts one token by each of ``exits``."""

    exits: Sequence[int]
    level: int = field(default=0)

    @property
    def drafts(self) -> bool:  # type: ignore[override]
        """Whether anything is to be drafted."""
        return len(self.exits) > 0

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        """Whether it is this exit's turn."""
        return exit_index >= self.exits[self.level]

    def continues(self, paths: Sequence[float]) -> bool:
        """Whether the script has another token."""
        self.level += 1
        return self.level < len(self.exits)
