"""What one request cost and how well its drafts were accepted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from runtime.decoding.acceptance import Acceptance
from runtime.drafting.policy import StepTimes
from runtime.drafting.sorted_draft import Proposal


@dataclass(slots=True)
class Stats:
    """Counters of one request; seconds are wall time, ``draft`` and ``verify`` of engine calls alone."""

    accept_lengths: list[int] = field(default_factory=list)
    """Tokens that each step accepted, the target's own included, before the text was cut at its end."""
    exit_counts: Counter[int] = field(default_factory=Counter)
    """How many draft depths each exit (its layer count) answered."""
    drafted_at_depth: Counter[int] = field(default_factory=Counter)
    accepted_at_depth: Counter[int] = field(default_factory=Counter)
    total: float = 0.0
    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0

    def record(
        self, proposal: Proposal | None, exits: tuple[int, ...], acceptance: Acceptance, seconds: StepTimes
    ) -> None:
        """Count one step."""
        self.draft += seconds.draft
        self.verify += seconds.verify
        self.total += seconds.total
        self.accept_lengths.append(len(acceptance.path))
        if proposal is None:
            return
        self.exit_counts.update(exits[index] for index in proposal.exits)
        self.drafted_at_depth.update(range(1, max(len(proposal.exits), int(proposal.tree.depths.max())) + 1))
        self.accepted_at_depth.update(range(1, len(acceptance.path)))

    @property
    def steps(self) -> int:
        """Verify calls."""
        return len(self.accept_lengths)

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
