"""The cost-aware policy: a piece of work is done when it pays at least what the text earns on average.

Decoding earns accepted tokens for milliseconds. To maximise their ratio, do a further piece of work exactly when the
tokens that it is expected to add, divided by its milliseconds, exceed that ratio (Dinkelbach 1967). The same rule
decides whether to draft at all, whether a deeper exit answers, whether the tree grows by a level, and which of its
nodes are verified (compare Sequoia, arXiv 2402.12374, and DEL, arXiv 2504.05598). Costs are measured on this machine;
acceptance is learned from this target's own decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.drafting.costs import SharedCosts
from runtime.drafting.learned import (
    CONFIDENCE_BINS,
    FIRST_TRIAL_SHARE,
    KINDS,
    LEAST_TRIAL_SHARE,
    Economy,
    Learned,
    PairStatistics,
    Priors,
)
from runtime.drafting.policy import (
    ALONE,
    DraftingPolicy,
    Load,
    Prospect,
    StepBudget,
    StepPlanner,
    confidence,
)
from runtime.drafting.proposal import NO_EXIT, Outcome
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError

ROW_SPAN = 8
"""The cost of one more row is the mean over a call of this many."""
MOST_PASSED_OVER = 8
"""An exit answers at least once after so many depths that ran deeper: its accuracy is learned only when it answers."""
LARGEST_LOSS = -1.0
"""Tokens that one step may lose."""
COLD_STEPS = 4
"""The first drafted steps bind buffers and find cold caches: their time is not held against the draft."""
LARGEST_SLOWNESS, LARGEST_RISE = 4.0, 1.5
"""Drafting that takes more than so many times its measured cost, and so many times what it took in the latest steps, is
counted as this much: the first calls of a size are slow too. Lasting slowness is learned all the same."""
TRIAL_WEIGHT = 4.0
"""Weight of a trial's outcome: a trial that pays brings the draft back soon."""
LARGEST_TREE, LONGEST_CHAIN = TreeShape(depth=7, top_k=4, nodes=32), TreeShape(depth=7, top_k=1, nodes=32)
"""Limits; what is drafted is as large as pays."""


@dataclass(frozen=True, slots=True)
class Adaptive(DraftingPolicy):
    """The cost-aware policy. With ``shared``, the texts of one target learn from each other. ``priors`` are what it
    starts from, where this pair is known.
    """

    shared: bool = True
    priors: Priors | None = None

    needs_costs = True

    def largest_tree(self, chain: bool) -> TreeShape:
        """The limits on a CPU."""
        return LONGEST_CHAIN if chain else LARGEST_TREE

    def open(self, pair: PairStatistics, temperature: float) -> CostAware:
        """A planner with the pair's statistics, or with its own."""
        return CostAware(pair.learned(temperature, self.priors) if self.shared else pair.new(self.priors))

    def check(self, exits: tuple[int, ...]) -> None:
        """Priors must be those of a draft with as many exits."""
        if exits and self.priors is not None and not self.priors.fits(len(exits)):
            raise OptionError(f"the priors are not those of a draft with {len(exits)} exits; tune this pair again")


class CostAware(StepPlanner):
    """Plans the steps of one text from what was learned.

    A segment whose backlog is long costs more than it adds in one step, but clearing the backlog serves all later
    steps. It is cleared when the profit forgone so far by not running the segment equals its cost (the ski-rental
    rule: at most twice the cost of the best decision in hindsight).
    """

    def __init__(self, learned: Learned) -> None:
        self.learned = learned
        # The prompt's backlog before segment 0 is cleared at once by a draft that is expected to pay.
        self.forgone = [math.inf] + [0.0] * (len(learned.calibration) - 1)

    def plan(self, prospect: Prospect, load: Load = ALONE) -> AdaptiveBudget:
        """Price a step; a draft that does not pay is tried again for a small share of the time.

        What a millisecond is worth rises with the texts that share it, so depth shrinks as the batch grows.
        """
        learned, economy, backlog = self.learned, self.learned.economy(load.texts), prospect.backlog
        costs = SharedCosts(learned.costs, load.texts, load.others, load.lanes)
        kind = min(int(sum(map(math.exp, prospect.copied))), KINDS - 1)
        plain = load.texts / (learned.costs.verify_ms(load.texts, load.texts) * economy.verify_slowness.value)
        rate = max(plain, economy.earnings[kind].rate)
        row_price = rate * economy.verify_slowness.value
        # The calls of one row and of two may cost the same, or differ by a jump; neither is the cost of a row.
        row_ms = (costs.verify_ms(ROW_SPAN) - costs.verify_ms(1)) / (ROW_SPAN - 1)
        budget = AdaptiveBudget(
            self,
            economy,
            costs,
            kind=kind,
            rate=rate,
            row_price=row_price,
            row_ms=row_ms,
            # A node that is not worth its row is never added.
            floor=math.log(max(row_price * row_ms, 1e-6)),
            drafts=False,
        )
        if backlog is None:
            return budget
        budget.segment_rows = backlog
        budget.backlog_ms = costs.exit_ms(0, backlog, 1) - costs.exit_ms(0, 1, 1)
        budget.draft_price = rate * economy.draft_slowness.value
        profit = economy.profits[kind].value
        if profit <= 0:
            cost = costs.exit_ms(0, backlog, 1) * economy.draft_slowness.value + row_ms
            budget.is_trial = budget.drafts = economy.trial_ms >= cost * load.texts
        else:
            budget.drafts = self.pays(budget, 0, profit, backlog, 1)
        level = budget.draft_price * costs.exit_ms(0, 1, 1) + row_price * row_ms
        # An accepted token makes a deeper chain possible: the sum of its expected profit.
        onward = min(learned.next_level.value, 0.95)
        budget.chain_profit = max(0.0, (onward - level) / (1.0 - onward))
        return budget

    def expects_to_draft(self, load: Load) -> bool:
        """Whether drafting has paid so far."""
        return self.learned.economy(load.texts).profits[0].value > 0

    def pays(self, budget: AdaptiveBudget, segment: int, profit: float, backlog: int, rows: int) -> bool:
        """Whether to run ``segment`` on ``backlog`` rows for ``profit`` tokens, from which the cost of ``rows`` is
        already deducted.
        """
        if profit <= 0:
            return False
        costs = budget.costs
        self.forgone[segment] += profit
        extra = costs.exit_ms(segment, backlog, rows) - costs.exit_ms(segment, rows, rows)
        if self.forgone[segment] < budget.draft_price * extra:
            return False
        self.forgone[segment] = 0.0
        return True

    def learn(self, budget: StepBudget, outcome: Outcome) -> None:
        """Update costs, earnings, profit and acceptance. The texts of a batch share one observation of its times."""
        assert isinstance(budget, AdaptiveBudget)
        learned, economy, times, batch = self.learned, budget.economy, outcome.times, outcome.batch
        share, total_ms = 1.0 / batch.texts, times.total * 1e3
        expected = learned.costs.verify_ms(batch.rows, batch.lanes, batch.context)
        economy.verify_slowness.observe(times.verify * 1e3 / expected * share, share)
        if not batch.prompt_rows:
            economy.earnings[budget.kind].observe(batch.tokens * share, total_ms * share, share)
        if not batch.drafted:
            economy.trial_ms += economy.trial_share * total_ms * share
            economy.host_ms.observe((times.total - times.verify) * 1e3 * share, share)
        if not outcome.proposal.exits:
            return
        economy.drafted_steps += 1.0 / batch.drafted
        self._learn_candidates(outcome)
        drafted = [depth for depth, exit_ in enumerate(outcome.proposal.exits) if exit_ != NO_EXIT]
        for depth in drafted[1:]:
            if len(outcome.path) > depth:
                learned.next_level.observe(float(len(outcome.path) > depth + 1))
        if economy.drafted_steps <= COLD_STEPS:
            return
        draft_ms = times.draft * 1e3 / batch.drafted
        economy.draft_call_slowness.observe(draft_ms / budget.predicted_ms * share, share)
        # Host work between the draft's calls is part of the cost of drafting.
        drafting = max(draft_ms, ((times.total - times.verify) * 1e3 - economy.host_ms.value) / batch.drafted)
        slowness = LARGEST_SLOWNESS * max(1.0, economy.verify_slowness.value)
        usual = max(slowness, LARGEST_RISE * economy.draft_slowness.value) * budget.predicted_ms
        economy.draft_slowness.observe(min(drafting, usual) / budget.predicted_ms * share, share)
        self._learn_profit(budget, outcome, min(drafting, usual))

    def _learn_profit(self, budget: AdaptiveBudget, outcome: Outcome, drafting_ms: float) -> None:
        """The tokens that drafting added, less those that its time would have earned: the draft's own calls, and what
        the text's rows added to the target's call.

        The backlog of earlier steps is deducted from the time: it says nothing of what a step of drafting costs. Nor do
        rows of tokens that were forced at the root. The target's time without the other rows is estimated from the call
        itself: a machine may be twice as slow from one step to the next, which must not look like a profit.
        """
        economy, costs, batch = budget.economy, self.learned.costs, outcome.batch
        exits = outcome.proposal.exits
        forced = next(depth for depth, exit_ in enumerate(exits) if exit_ != NO_EXIT)
        accepted, added = len(outcome.path), max(0, len(outcome.proposal.tree) - 1 - forced)
        plain = costs.verify_ms(batch.texts + batch.prompt_rows, batch.lanes, batch.context)
        share = 1.0 - plain / costs.verify_ms(batch.rows, batch.lanes, batch.context)
        extra = batch.rows - batch.texts - batch.prompt_rows
        verifying = outcome.times.verify * 1e3 * share * added / max(1, extra)
        spent = drafting_ms + verifying
        copied = min(outcome.copied, accepted - 1)
        profit = accepted - 1 - copied - budget.rate * (spent - budget.backlog_ms * economy.draft_slowness.value)
        weight = TRIAL_WEIGHT if budget.is_trial else 1.0
        economy.profits[budget.kind].observe(weight * max(profit, LARGEST_LOSS), weight)
        if budget.is_trial:
            economy.trial_ms -= spent
            failed = economy.profits[budget.kind].value <= 0
            economy.trial_share = max(LEAST_TRIAL_SHARE, economy.trial_share / 2) if failed else FIRST_TRIAL_SHARE

    def _learn_candidates(self, outcome: Outcome) -> None:
        """The target decided on every child of an accepted node; it never saw what hangs below a rejected one."""
        tree, exits = outcome.proposal.tree, outcome.proposal.exits
        parents, depths, accepted = tree.parents.tolist(), tree.depths.tolist(), set(outcome.path)
        for node in range(1, len(tree)):
            if tree.ranks[node] >= 0 and parents[node] in accepted:
                calibration = self.learned.calibration[exits[depths[node] - 1]][tree.ranks[node] > 0]
                calibration.observe(tree.draft_logprobs[node], node in accepted)


@dataclass(slots=True, eq=False)
class AdaptiveBudget(StepBudget):
    """The prices of one step: ``rate`` in tokens per millisecond, ``draft_price`` and ``row_price`` the same for a
    measured millisecond of drafting and of verification.

    ``predicted_ms`` sums the measured cost of what the draft ran in this step.
    """

    planner: CostAware
    economy: Economy
    costs: SharedCosts
    kind: int
    rate: float
    row_price: float
    row_ms: float
    floor: float
    drafts: bool
    draft_price: float = 0.0
    is_trial: bool = False
    chain_profit: float = 0.0
    backlog_ms: float = 0.0
    segment_rows: int = 0
    predicted_ms: float = 0.0
    confidences: list[float] = field(default_factory=list)

    def calibrated(self, exit_index: int, logprobs: list[list[float]]) -> list[list[float]]:
        """Correct the draft's probabilities by what the target accepted so far."""
        best, others = self.planner.learned.calibration[exit_index]
        return [[best.apply(row[0]), *map(others.apply, row[1:])] for row in logprobs]

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        """Whether the next exit would add less than it costs."""
        learned, costs, rows = self.planner.learned, self.costs, len(paths)
        sure = confidence(paths, children, "mean")
        self.predicted_ms += costs.exit_ms(exit_index, self.segment_rows, rows)
        self.segment_rows = backlog
        if exit_index == 0:
            self.confidences.clear()
        else:
            before = self.confidences[-1]
            learned.deeper_gain[exit_index - 1][_bin(before)].observe(sure - before)
        self.confidences.append(sure)
        if exit_index == len(learned.calibration) - 1:
            return True
        gain = learned.deeper_gain[exit_index][_bin(sure)].value * (1.0 + self.chain_profit)
        profit = sum(map(math.exp, paths)) * gain - self.draft_price * costs.exit_ms(exit_index + 1, rows, rows)
        deeper = learned.depths_since_answer[exit_index] < MOST_PASSED_OVER and self.planner.pays(
            self, exit_index + 1, profit, backlog, rows
        )
        learned.depths_since_answer[exit_index] = learned.depths_since_answer[exit_index] + 1 if deeper else 0
        return not deeper

    def continues(self, paths: Sequence[float]) -> bool:
        """Whether the next level is expected to pay for its draft pass and for a row."""
        rows = self.segment_rows = len(paths)
        if rows == 0:
            return False
        learned = self.planner.learned
        cost = self.draft_price * self.costs.exit_ms(0, rows, rows) + self.row_price * self.row_ms
        return sum(map(math.exp, paths)) * learned.next_level.value * (1.0 + self.chain_profit) > cost

    def also_runs(self, rows: int) -> None:
        """As backlog."""
        before = self.segment_rows
        self.segment_rows += rows
        self.backlog_ms += self.costs.exit_ms(0, self.segment_rows, 1) - self.costs.exit_ms(0, before, 1)

    def size(self, logprobs: Sequence[float]) -> int:
        """As many nodes as pay for their rows."""
        expected, best, count = 0.0, -math.inf, 1
        for rows, logprob in enumerate(logprobs, 1):
            expected += math.exp(logprob)
            surplus = expected - self.row_price * self.costs.verify_ms(rows)
            if surplus > best:
                best, count = surplus, rows
        return count


def _bin(probability: float) -> int:
    return min(CONFIDENCE_BINS - 1, int(probability * CONFIDENCE_BINS))
