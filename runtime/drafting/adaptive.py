"""The cost-aware policy: every piece of work must pay at least what the request earns on average.

Decoding earns accepted tokens for milliseconds. To maximise their ratio, do a further piece of work exactly when the
tokens it is expected to add, divided by its milliseconds, exceed that ratio itself (Dinkelbach 1967). The same rule
decides whether to draft at all, whether a deeper exit answers, whether the tree grows by a level, and which of its
nodes are verified (compare Sequoia, arXiv 2402.12374, and DEL, arXiv 2504.05598). Costs are measured on this machine,
acceptance is learned from this target's own verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.decoding.acceptance import Acceptance
from runtime.drafting.calibration import Calibration, Fading
from runtime.drafting.costs import Costs
from runtime.drafting.ngram import NgramDraft, NgramOdds
from runtime.drafting.policy import DraftingPolicy, StepTimes, confidence
from runtime.drafting.sorted_draft import Proposal

TREE_ROWS = 8
"""Of a small tree, over which the cost of a row is averaged."""
GUESSED = 3
"""Steps are told apart by what the guess promises: less than a token, less than two, more."""
BINS = 8
"""Of an exit's confidence, for what the next exit adds."""
PROBING, LEAST_PROBING = 0.02, 0.0025
"""Share of the time that goes into trying a draft again that has not paid: at first, and after many failed tries."""
PATIENCE = 8
"""How often in a row an exit is passed by until it answers for once: only then is it learned how good it is."""
LARGEST_LOSS = -1.0
"""Tokens that one step may lose: a first call, or a machine that was busy just then, says nothing of the draft."""
PROBES = 4.0
"""Weight of a try's outcome: one that pays brings the draft back soon."""


class Earned:
    """Tokens per millisecond in steps of one kind."""

    def __init__(self, alone: float) -> None:
        self._tokens, self._milliseconds = Fading(1.0, 4.0, 32.0), Fading(alone, 4.0, 32.0)

    @property
    def rate(self) -> float:
        """The mean of late; before any step, one token for the milliseconds of the target alone."""
        return self._tokens.value / self._milliseconds.value

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Count one step."""
        self._tokens.observe(tokens)
        self._milliseconds.observe(milliseconds)


class Learned:
    """What is known of one draft on one target: shared by requests, or one request's own."""

    def __init__(self, exits: int, costs: Costs) -> None:
        self.costs = costs
        self.calibration = [(Calibration(), Calibration()) for _ in range(exits)]
        """Per exit: of a node's best candidate, and of the others."""
        # Hopeful, so that each bin is tried a few times.
        self.deeper_gain = [[Fading(0.1, 2.0, 64.0) for _ in range(BINS)] for _ in range(exits - 1)]
        self.passed_by = [0] * (exits - 1)
        """Per exit: depths since it answered."""
        self.guesses = NgramOdds()
        self.profits = [Fading(0.4, 8.0, 64.0) for _ in range(GUESSED)]
        """Tokens that drafting earned in a step beyond what its time, and the guess at hand, would have earned: by the
        tokens that could be expected of the guess."""
        self.elsewhere = Fading(0.0, 1.0, 32.0)
        """Milliseconds outside the call of a step that does not draft."""
        self.next_mass = Fading(0.7, 4.0, 128.0)
        self.verify_slowness = Fading(1.0, 4.0, 32.0)
        self.draft_slowness = Fading(1.0, 4.0, 32.0)
        alone = costs.of_verify[1]
        self.earned = [Earned(alone) for _ in range(GUESSED)]
        """Tokens for milliseconds, of late: a stretch of the text that copies another goes at a rate of its own."""
        self.purse = 0.0
        """Milliseconds saved up for trying."""
        self.probing = PROBING
        """Share of the time that is saved up: halved by each try that fails."""

    def rate(self, kind: int) -> float:
        """Tokens per millisecond of steps with such a guess, at least those of the target alone."""
        return max(1.0 / (self.costs.of_verify[1] * self.verify_slowness.value), self.earned[kind].rate)


class CostAware(DraftingPolicy):
    """Decides for one request from what was learned.

    Rows that wait before a segment are a debt that whoever runs it next pays, for the good of all that follow. It is
    paid once the profit forgone by not running amounts to it (rent or buy: at most twice the best possible cost).
    """

    def __init__(self, learned: Learned) -> None:
        self._learned, self._costs = learned, learned.costs
        # From one row to two a call may cost nothing more, or a step: neither says what a row of a tree costs.
        self._row = (self._costs.of_verify[TREE_ROWS] - self._costs.of_verify[1]) / (TREE_ROWS - 1)
        # The prompt's debt before segment 0 is paid at once by a draft that seems to pay.
        self._forgone = [math.inf] + [0.0] * (len(learned.calibration) - 1)
        self._confidence = [0.0] * len(learned.calibration)
        self._price = self._row_price = self._beyond = self._predicted = self._debt = 0.0
        self._kind, self._rate, self._profit = 0, learned.rate(0), learned.profits[0]
        self._probing = False
        self._waiting = 0

    def begins(self, waiting: int, guess: NgramDraft | None = None) -> bool:
        """See ``DraftingPolicy.begins``. A draft that does not pay is tried again now and then."""
        learned, costs = self._learned, self._costs
        self._predicted, self._waiting = 0.0, waiting
        # What waits is a debt of the past, which says nothing of what a step of drafting earns.
        self._debt = costs.of_exit(0, waiting, 1) - costs.of_exit(0, 1, 1)
        promised = sum(map(math.exp, self.guessed(guess))) if guess is not None else 0.0
        self._kind = min(int(promised), GUESSED - 1)
        self._rate, self._profit = learned.rate(self._kind), learned.profits[self._kind]
        self._price = self._rate * learned.draft_slowness.value
        self._row_price = self._rate * learned.verify_slowness.value
        # A node that is not worth its row is never grown.
        self.floor = math.log(max(self._row_price * self._row, 1e-6))
        self._probing = self._profit.value <= 0
        if self._probing:
            least = costs.of_exit(0, waiting, 1) * learned.draft_slowness.value + self._row
            if learned.purse < least:
                return False
        elif not self._pays(0, self._profit.value, waiting, 1):
            return False
        level = self._price * costs.of_exit(0, 1, 1) + self._row_price * self._row
        # What an accepted token makes possible: the profit of a chain that goes on below it.
        onward = min(learned.next_mass.value, 0.95)
        self._beyond = max(0.0, (onward - level) / (1.0 - onward))
        return True

    def guessed(self, guess: NgramDraft) -> list[float]:
        """See ``DraftingPolicy.guessed``."""
        return self._learned.guesses.logprobs(guess)

    def calibrated(self, exit_index: int, logprobs: list[list[float]]) -> list[list[float]]:
        """See ``DraftingPolicy.calibrated``."""
        best, others = self._learned.calibration[exit_index]
        return [[best.apply(row[0]), *map(others.apply, row[1:])] for row in logprobs]

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], waiting: int) -> bool:
        """See ``DraftingPolicy.answers``: the next exit must add more than it costs."""
        learned, rows = self._learned, len(paths)
        sure = confidence(paths, children, "mean")
        self._predicted += self._costs.of_exit(exit_index, self._waiting, rows)
        self._waiting = waiting
        if exit_index > 0:
            before = self._confidence[exit_index - 1]
            learned.deeper_gain[exit_index - 1][_bin(before)].observe(sure - before)
        self._confidence[exit_index] = sure
        if exit_index == len(learned.calibration) - 1:
            return True
        gain = learned.deeper_gain[exit_index][_bin(sure)].value * (1.0 + self._beyond)
        profit = sum(map(math.exp, paths)) * gain - self._price * self._costs.of_exit(exit_index + 1, rows, rows)
        if learned.passed_by[exit_index] < PATIENCE and self._pays(exit_index + 1, profit, waiting, rows):
            learned.passed_by[exit_index] += 1
            return False
        learned.passed_by[exit_index] = 0
        return True

    def continues(self, paths: Sequence[float]) -> bool:
        """See ``DraftingPolicy.continues``."""
        rows = self._waiting = len(paths)
        if rows == 0:
            return False
        cost = self._price * self._costs.of_exit(0, rows, rows) + self._row_price * self._row
        return sum(map(math.exp, paths)) * self._learned.next_mass.value * (1.0 + self._beyond) > cost

    def size(self, logprobs: Sequence[float]) -> int:
        """See ``DraftingPolicy.size``: as many nodes as pay for their rows."""
        verify, mass, best, count = self._costs.of_verify, 0.0, -math.inf, 1
        for rows, logprob in enumerate(logprobs, 1):
            mass += math.exp(logprob)
            surplus = mass - self._row_price * verify[rows]
            if surplus > best:
                best, count = surplus, rows
        return count

    def learn(self, proposal: Proposal | None, acceptance: Acceptance, seconds: StepTimes) -> None:
        """See ``DraftingPolicy.learn``."""
        learned, accepted = self._learned, len(acceptance.path)
        learned.earned[self._kind].observe(accepted, seconds.total * 1e3)
        rows = 1 if proposal is None else len(proposal.tree)
        learned.verify_slowness.observe(seconds.verify * 1e3 / self._costs.of_verify[rows])
        free = 0
        if proposal is not None and proposal.guess is not None:
            tokens = [*proposal.tree.tokens[acceptance.path[1:]].tolist(), acceptance.token]
            free = min(proposal.guess.agreement(tokens), accepted - 1)
            learned.guesses.observe(proposal.guess, tokens)
        if proposal is None or not proposal.exits:
            learned.purse += learned.probing * seconds.total * 1e3
            learned.elsewhere.observe((seconds.total - seconds.verify) * 1e3)
            return
        # The work between the draft's calls is part of what drafting costs.
        drafting = max(seconds.draft * 1e3, (seconds.total - seconds.verify) * 1e3 - learned.elsewhere.value)
        learned.draft_slowness.observe(drafting / self._predicted)
        alone = self._alone(rows, seconds)
        spent = seconds.total * 1e3 - alone
        profit = accepted - 1 - free - self._rate * (spent - self._debt * learned.draft_slowness.value)
        profit = max(profit, LARGEST_LOSS)
        weight = PROBES if self._probing else 1.0
        self._profit.observe(weight * profit, weight)
        if self._probing:
            learned.purse -= spent
            failed = self._profit.value <= 0
            learned.probing = max(LEAST_PROBING, learned.probing / 2) if failed else PROBING
        for depth in range(1, min(accepted, len(proposal.exits))):
            learned.next_mass.observe(float(accepted > depth + 1))
        self._learn_candidates(proposal, set(acceptance.path))

    def _alone(self, rows: int, seconds: StepTimes) -> float:
        """Milliseconds that this step would have taken without drafting.

        They come from its own verify call: from one step to the next a machine may be twice as slow, and that must not
        look like profit.
        """
        verify = self._costs.of_verify
        return seconds.verify * 1e3 * verify[1] / verify[rows] + self._learned.elsewhere.value

    def _learn_candidates(self, proposal: Proposal, accepted: set[int]) -> None:
        """Every child of an accepted node was put to the target; what hangs below a rejected one was not."""
        tree = proposal.tree
        parents, depths, drafted = tree.parents.tolist(), tree.depths.tolist(), tree.drafted.tolist()
        ranked: set[int] = set()
        verdicts = []
        judged = [node for node in range(1, len(tree)) if parents[node] in accepted and not math.isnan(drafted[node])]
        for node in sorted(judged, key=drafted.__getitem__, reverse=True):
            parent = parents[node]
            calibration = self._learned.calibration[proposal.exits[depths[node] - 1]][parent in ranked]
            ranked.add(parent)
            probability = math.exp(min(drafted[node], -1e-9))
            verdicts.append(
                (calibration, calibration.undo(math.log(probability / (1.0 - probability))), node in accepted)
            )
        for calibration, raw, verdict in verdicts:
            calibration.observe(raw, verdict)

    def _pays(self, segment: int, profit: float, waiting: int, rows: int) -> bool:
        """Whether to run ``segment`` for ``profit`` (tokens, the cost of ``rows`` taken off) and clear its debt."""
        if profit <= 0:
            return False
        self._forgone[segment] += profit
        debt = self._costs.of_exit(segment, waiting, rows) - self._costs.of_exit(segment, rows, rows)
        if self._forgone[segment] < self._price * debt:
            return False
        self._forgone[segment] = 0.0
        return True


def _bin(probability: float) -> int:
    return min(BINS - 1, int(probability * BINS))
