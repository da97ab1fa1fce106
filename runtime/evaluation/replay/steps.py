"""The decoding loop over recordings: what every step proposes, accepts and costs, without a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from runtime.drafting.calls import Calls, run_together
from runtime.drafting.learned import PairStatistics
from runtime.drafting.ngram import NgramLookup
from runtime.drafting.options import Policy
from runtime.drafting.policy import ALONE, Load
from runtime.drafting.proposal import NO_EXIT, Batch, Outcome, Proposal, StepTimes
from runtime.drafting.text import TextDrafting
from runtime.evaluation.replay.engines import RecordedDraft
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recording import Recording, TextRecord
from runtime.sampling.noise import Noise
from runtime.tree.tree import Tree


@dataclass(slots=True, eq=False)
class ReplayedText:
    """One text as a policy decodes it. ``outcomes`` has an entry for each step."""

    record: TextRecord
    drafting: TextDrafting
    new_tokens: int = 1
    """The first comes with the prompt."""
    usual_rows: float = 1.0
    milliseconds: float = 0.0
    """Of all steps; of steps that texts share, each bears an equal part."""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the text is as long as the target's."""
        return self.new_tokens >= len(self.record.tokens)

    @property
    def length(self) -> int:
        """Tokens so far, the prompt included."""
        return len(self.record.prompt) + self.new_tokens

    @property
    def root_token(self) -> int:
        """The last token."""
        return self.record.text[self.length - 1]

    @property
    def accept_lengths(self) -> list[int]:
        """Tokens that each step accepted, the target's own included."""
        return [len(outcome.path) for outcome in self.outcomes]

    @property
    def exits(self) -> list[Sequence[int]]:
        """For each step, the exit that answered at each depth."""
        return [outcome.proposal.exits for outcome in self.outcomes]

    def accept(self, tree: Tree) -> list[int]:
        """The path of the nodes that the target accepts, root first."""
        text, position = self.record.text, self.length
        path, children = [0], tree.children()
        while position < len(text):
            child = children.get((path[-1], text[position]))
            if child is None:
                break
            path.append(child)
            position += 1
        return path

    def commit(self, accepted: int) -> int:
        """Add what a step accepted; returns how many of the tokens were copied from the text."""
        tokens = self.record.text[self.length : self.length + accepted]
        self.new_tokens += len(tokens)
        return self.drafting.follow(tokens)

    def note(self, outcome: Outcome, milliseconds: float) -> None:
        """Count a step, and let the policy learn from it."""
        self.outcomes.append(outcome)
        self.milliseconds += milliseconds
        self.usual_rows += (len(outcome.proposal.tree) - self.usual_rows) / 4
        self.drafting.learn(outcome)


class Replay:
    """One process's decoding with a policy: texts learn from those before them, as they do in a decoder."""

    def __init__(self, recording: Recording, prices: Prices, policy: Policy, chain: bool = True) -> None:
        self.recording, self.prices, self.policy, self.chain = recording, prices, policy, chain
        pair = recording.pair
        self.draft = RecordedDraft(pair, prices.costs)
        self.statistics = PairStatistics(pair.exits, prices.costs)
        self._lookup = NgramLookup()

    def begin(self, record: TextRecord) -> ReplayedText:
        """A text after its prompt and first token; the counterpart of ``Decoder.lease``."""
        pair, policy = self.recording.pair, self.policy
        shape = policy.largest_tree(chain=self.chain)
        chain = self.chain or shape.is_chain or pair.target_drafts == "chain"
        shape = replace(shape, nodes=max(2, min(shape.nodes, pair.target_rows)))
        planner = policy.exit.open(self.statistics, self.recording.temperature)
        drafting = TextDrafting([], planner, shape, _NO_NOISE, chain)
        drafted = self.draft.begin(record, shape)
        if drafted is not None:
            drafting.sequences.append(drafted)
        if policy.looks_up:
            drafting.sequences.append(self._lookup.lease(record.prompt, shape))
        drafting.follow(record.tokens[:1])
        return ReplayedText(record, drafting)

    def run(self, lanes: int = 1) -> list[ReplayedText]:
        """Decode all texts, at most ``lanes`` at a time; the next one joins where one has ended."""
        waiting, texts = deque(self.recording.texts), list[ReplayedText]()
        running: list[ReplayedText] = []
        while waiting or running:
            while waiting and len(running) < lanes:
                texts.append(self.begin(waiting.popleft()))
                running += [text for text in texts[-1:] if not text.finished]
            if running:
                self.step(running)
            running = [text for text in running if not text.finished]
        return texts

    def propose(self, texts: Sequence[ReplayedText]) -> list[Proposal]:
        """What the texts of one step propose."""
        rows = {text: max(1, round(text.usual_rows)) for text in texts}
        drafting = [text for text in texts if not text.drafting.rests()]

        def drafts() -> Iterator[Calls[Proposal]]:
            for text in drafting:
                own = rows[text]
                load = Load(len(texts), sum(rows.values()) - own, len(texts)) if len(texts) > 1 else ALONE
                room = min(text.record.limit - text.new_tokens, self.recording.pair.target_rows) - 1
                yield text.drafting.propose(text.root_token, room, load)

        proposals = dict(zip(drafting, run_together(drafts()), strict=True))
        return [proposals.get(text) or Proposal(Tree.chain([text.root_token])) for text in texts]

    def step(self, texts: Sequence[ReplayedText]) -> None:
        """Draft, accept and learn, at the prices of the cost model."""
        before = self.draft.recorded.clock.seconds
        proposals = self.propose(texts)
        measured_ms = (self.draft.recorded.clock.seconds - before) * 1e3
        paths = [text.accept(proposal.tree) for text, proposal in zip(texts, proposals, strict=True)]
        rows, context = sum(len(proposal.tree) for proposal in proposals), sum(text.length - 1 for text in texts)
        exits = [exits_run(proposal) for proposal in proposals]
        levels = max(levels_run(proposal) for proposal in proposals)
        draft_ms = self.prices.draft_ms(measured_ms, levels, len(texts))
        verify_ms = self.prices.verify_ms(rows, len(texts), context, max(exits))
        drafted, accepted = rows - len(texts), sum(map(len, paths)) - len(texts)
        total_ms = draft_ms + verify_ms + self.prices.host_ms(drafted, sum(exits), accepted, len(texts))
        times = StepTimes(draft_ms * 1e-3, verify_ms * 1e-3, total_ms * 1e-3)
        batch = Batch(
            texts=len(texts),
            drafted=sum(bool(proposal.exits) for proposal in proposals),
            rows=rows,
            tokens=sum(map(len, paths)),
            lanes=len(texts),
            context=context,
        )
        for text, proposal, path in zip(texts, proposals, paths, strict=True):
            copied = text.commit(len(path))
            text.note(Outcome(proposal, path, times, copied, batch), total_ms / len(texts))


def exits_run(proposal: Proposal) -> int:
    """How many exits answered or passed a level on: a level that exit 2 answered ran three."""
    return sum(exit_index + 1 for exit_index in proposal.exits)


def levels_run(proposal: Proposal) -> int:
    """How many levels the draft model drafted; forced tokens need no model."""
    return sum(exit_index != NO_EXIT for exit_index in proposal.exits)


_NO_NOISE = Noise(0, 0.0, 1)
"""Recorded candidates hold the noise already."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of replayed texts."""

    tokens: int
    steps: int
    milliseconds: float

    @classmethod
    def of(cls, texts: Sequence[ReplayedText]) -> Summary:
        """Sum over texts; the tokens that came with the prompts are not counted."""
        tokens = sum(len(text.record.tokens) - 1 for text in texts)
        return cls(tokens, sum(len(text.outcomes) for text in texts), sum(text.milliseconds for text in texts))

    @property
    def tokens_per_ms(self) -> float:
        """New tokens a millisecond."""
        return self.tokens / self.milliseconds
