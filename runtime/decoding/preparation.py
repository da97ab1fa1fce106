"""What a target and a draft need before their first text: the check of exactness, and the measured costs."""

from __future__ import annotations

from collections.abc import Callable

from runtime.decoding.options import Options
from runtime.drafting.costs import Costs
from runtime.drafting.learned import DISAGREEMENT, PairStatistics, rounded
from runtime.drafting.measurement import distrust, measured_costs
from runtime.drafting.ngram import NgramLookup
from runtime.drafting.policy import DraftingPolicy, StepPlanner
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets.interface import TargetModel
from s2d_trt.errors import S2DError

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Report nothing."""


class Preparation:
    """What is checked, measured and learned for one pair of engines in this process."""

    def __init__(self, target: TargetModel, draft: SortedDraft | None) -> None:
        self._target, self._draft = target, draft
        self._inexact: S2DError | None = None
        self._exits = draft.exits if draft else ()
        self._checked = 0
        """Texts in one call up to which exactness was checked."""
        self._opened = 1
        """Texts in one call up to which engines are loaded."""
        self._distrusted = False
        self._measured_exact = False
        self._sequences = 0
        self._statistics: PairStatistics | None = None
        self._lookups: dict[float, NgramLookup] = {}

    @property
    def disagreement(self) -> float:
        """How far the latest steps are from the measured costs: a ratio of at least 1."""
        return self._statistics.disagreement if self._statistics else 1.0

    @property
    def costs(self) -> Costs | None:
        """The measured costs, where a request needed them."""
        return self._statistics.costs if self._statistics else None

    def prepare(self, options: Options, progress: Progress = silent, measure: bool = False, sequences: int = 1) -> bool:
        """Check and measure what ``options`` need with up to ``sequences`` texts; returns whether their text will be
        exact.

        Raises:
            S2DError: ``options.exact`` cannot be promised here.
        """
        wanted = self._target.exact_by_default and options.allows_exact if options.exact is None else options.exact
        exact = wanted and self._is_exact(progress, sequences)
        if options.exact and self._inexact is not None:
            raise self._inexact
        if options.draft and options.policy.exit.needs_costs:
            self._measure(progress, measure, sequences)
        if sequences > self._opened:
            self._target.open_lanes(sequences)
            if self._draft is not None:
                self._draft.engines.open_lanes(sequences)
            self._opened = sequences
        return exact

    def planner(self, policy: DraftingPolicy, temperature: float) -> StepPlanner:
        """A new text's planner."""
        return policy.open(self._statistics or PairStatistics(self._exits, None), temperature)

    def lookup(self, temperature: float) -> NgramLookup:
        """The n-gram drafter of a temperature: a greedy text repeats itself more than a sampled one."""
        return self._lookups.setdefault(rounded(temperature), NgramLookup())

    def _is_exact(self, progress: Progress, texts: int) -> bool:
        if self._checked < texts and self._inexact is None:
            try:
                self._target.check_exact(progress, texts)
            except S2DError as cause:
                self._inexact = cause
            self._checked = texts
        return self._inexact is None

    def _measure(self, progress: Progress, again: bool, sequences: int) -> None:
        if self._statistics is None or again or sequences > self._sequences:
            self._sequences = max(sequences, self._sequences)
            self._measured_exact = self._checked > 0 and self._inexact is None
            costs = measured_costs(
                self._target,
                self._draft,
                progress,
                exact=self._measured_exact,
                again=again,
                lanes=min(self._sequences, self._target.lanes[-1]),
            )
            self._statistics = PairStatistics(self._exits, costs)

    def review(self) -> None:
        """Hold the latest steps against the measured costs. Measuring takes seconds: it is left to the next start."""
        if self.disagreement > DISAGREEMENT and not self._distrusted:
            distrust(self._target, self._draft, exact=self._measured_exact)
            self._distrusted = True
