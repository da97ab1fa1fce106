"""What one request cost and how well its drafts were accepted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from runtime.drafting.proposal import NO_EXIT, Proposal, StepTimes


@dataclass(slots=True)
class Stats:
    """Counters of one request. Seconds are wall time; ``draft`` and ``verify`` count engine calls only."""

    accept_lengths: list[int] = field(default_factory=list)
    """Tokens that each step accepted, the target's own included; the last step may go beyond the end of the text."""
    drafted: list[int] = field(default_factory=list)
    """Draft tokens that each step verified."""
    exit_counts: Counter[int] = field(default_factory=Counter)
    """How many draft depths each exit (its layer count) answered."""
    drafted_at_depth: Counter[int] = field(default_factory=Counter)
    accepted_at_depth: Counter[int] = field(default_factory=Counter)
    restored: int = 0
    """Tokens of the prompt that were not computed again."""
    total: float = 0.0
    preparation: float = 0.0
    """Before the prefill: checks and measurements, where no earlier request needed them. Not part of ``total``."""
    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0

    def add_prefill(self, seconds: float) -> None:
        """Count a step in which a part of the prompt was committed."""
        self.prefill += seconds
        self.total += seconds

    def record(self, proposal: Proposal, exits: tuple[int, ...], accepted: int, times: StepTimes) -> None:
        """Count one step that accepted ``accepted`` tokens."""
        self.draft += times.draft
        self.verify += times.verify
        self.total += times.total
        self.accept_lengths.append(accepted)
        self.drafted.append(len(proposal.tree) - 1)
        self.exit_counts.update(exits[index] for index in proposal.exits if index != NO_EXIT)
        deepest = max(len(proposal.exits), int(proposal.tree.depths.max()))
        self.drafted_at_depth.update(range(1, deepest + 1))
        self.accepted_at_depth.update(range(1, accepted))

    @property
    def steps(self) -> int:
        """Verify calls."""
        return len(self.accept_lengths)

    @property
    def drafts(self) -> int:
        """Steps that verified at least one drafted token."""
        return sum(map(bool, self.drafted))

    @property
    def draft_tokens(self) -> int:
        """Drafted tokens that were verified: the nodes of all trees, their roots left out."""
        return sum(self.drafted)

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that the target accepted."""
        return sum(self.accept_lengths) - self.steps

    @property
    def mean_accepted_tokens(self) -> float:
        """Mean of ``accept_lengths``; plain decoding has 1."""
        return sum(self.accept_lengths) / self.steps if self.steps else 0.0

    @property
    def other(self) -> float:
        """StepTimes outside engine calls and prefill."""
        return max(0.0, self.total - self.prefill - self.draft - self.verify)

    @property
    def overhead(self) -> float:
        """Share of the time spent outside engine calls and prefill."""
        return self.other / self.total if self.total else 0.0

    def acceptance_by_depth(self) -> list[float]:
        """Share of the steps that drafted to depth 1, 2, ... in which a node of that depth was accepted."""
        return [self.accepted_at_depth[depth] / count for depth, count in sorted(self.drafted_at_depth.items())]
