"""What is known of one draft on one target: measured costs, and statistics that the cost-aware policy learns."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.drafting.averages import FadingMean
from runtime.drafting.calibration import Calibration
from runtime.drafting.costs import Costs

KINDS = 3
"""Steps are told apart by the tokens that n-gram lookup promises: less than one, less than two, more."""
CONFIDENCE_BINS = 8
"""Of an exit's confidence, for the gain of the next exit."""
FIRST_TRIAL_SHARE, LEAST_TRIAL_SHARE = 0.02, 0.005
"""Share of the time that is spent on trying a draft that has not paid: at first, and after many failed trials."""
DISAGREEMENT = 1.5
"""The draft's slowness against measured costs, over the target's, from which costs are measured again."""
LEAST_STEPS = 24
"""Steps with drafting before the observed times are held against the measured ones."""


class Earnings:
    """Tokens per millisecond, averaged over the latest steps of one kind."""

    def __init__(self, plain_milliseconds: float) -> None:
        """Start from plain decoding: one token in ``plain_milliseconds``."""
        self._tokens, self._milliseconds = FadingMean(1.0, 4.0, 32.0), FadingMean(plain_milliseconds, 4.0, 32.0)

    @property
    def rate(self) -> float:
        """Tokens per millisecond."""
        return self._tokens.value / self._milliseconds.value

    def observe(self, tokens: float, milliseconds: float, weight: float = 1.0) -> None:
        """Count one step, or a text's share of it."""
        self._tokens.observe(tokens, weight)
        self._milliseconds.observe(milliseconds, weight)


class Economy:
    """What steps earn and cost while so many texts share the target's calls."""

    def __init__(self, plain_milliseconds: float, lighter: Economy | None = None) -> None:
        """Start from plain decoding, a token in ``plain_milliseconds``, and from what drafting earned under a
        ``lighter`` load: under this one it earns no more.
        """
        earned = [profit.value for profit in lighter.profits] if lighter else [0.4] * KINDS
        self.profits: list[FadingMean] = [FadingMean(value, 8.0, 64.0) for value in earned]
        """Per kind of step: accepted tokens of the draft model, less the tokens that its time would have earned."""
        self.earnings = [Earnings(plain_milliseconds) for _ in range(KINDS)]
        """Per kind of step: a passage that repeats another earns at a rate of its own."""
        self.host_ms = FadingMean(0.0, 1.0, 32.0)
        """Milliseconds outside the engine's call in a step without the draft model."""
        self.verify_slowness = FadingMean(1.0, 4.0, 32.0)
        self.draft_slowness = FadingMean(1.0, 4.0, 32.0)
        """Observed time over measured cost, of the target's calls and of drafting."""
        self.draft_call_slowness = FadingMean(1.0, 4.0, 32.0)
        """As ``draft_slowness``, of the draft's engine calls alone, without the host's work between them."""
        self.trial_ms = 0.0
        """Milliseconds saved up for trying a draft that has not paid."""
        self.trial_share = FIRST_TRIAL_SHARE
        """Share of the time that is saved up; each failed trial halves it."""
        self.drafted_steps = 0.0
        """Steps in which texts of the batch drafted."""

    @property
    def disagreement(self) -> float:
        """How far observed times are from the measured costs, as a ratio of at least 1; 1 before enough steps.

        A machine that is evenly slower changes no decision, so what counts is the draft's slowness over the target's.
        """
        if self.drafted_steps < LEAST_STEPS:
            return 1.0
        ratio = self.draft_call_slowness.value / self.verify_slowness.value
        return max(ratio, 1.0 / ratio)


@dataclass(frozen=True, slots=True)
class Priors:
    """What statistics start from, where texts of this pair were seen before.

    ``calibration`` has a slope and an offset for each exit's best candidate and for its others, ``deeper_gain`` a value
    for each exit but the last and each bin of its confidence.
    """

    calibration: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    deeper_gain: tuple[tuple[float, ...], ...]
    next_level: float

    @classmethod
    def of_nothing(cls, exits: int) -> Priors:
        """Trust in the draft; the gain is optimistic, so that each bin is tried a few times."""
        trust = (1.0, 0.0)
        return cls(((trust, trust),) * exits, ((0.1,) * CONFIDENCE_BINS,) * (exits - 1), 0.7)

    def fits(self, exits: int) -> bool:
        """Whether there is a prior for each of so many exits."""
        bins = all(len(gains) == CONFIDENCE_BINS for gains in self.deeper_gain)
        return len(self.calibration) == exits == len(self.deeper_gain) + 1 and bins


class Learned:
    """Statistics of one draft on one target: shared by texts, or one text's own."""

    def __init__(self, exits: int, costs: Costs, priors: Priors | None = None) -> None:
        start = priors or Priors.of_nothing(exits)
        self.costs = costs
        self.calibration = [(Calibration(*best), Calibration(*others)) for best, others in start.calibration]
        """Per exit: of a node's best candidate, and of its others."""
        self.deeper_gain = [[FadingMean(gain, 2.0, 64.0) for gain in gains] for gains in start.deeper_gain]
        """Per exit and bin of its confidence: what the next exit added to the confidence."""
        self.depths_since_answer = [0] * (exits - 1)
        """Per exit: depths that ran to a deeper exit since this one answered."""
        self.next_level = FadingMean(start.next_level, 4.0, 128.0)
        """Probability that a level's node is accepted, given that one of the level above was."""
        self._economies: dict[int, Economy] = {}

    def economy(self, texts: int = 1) -> Economy:
        """What was learned with about so many texts in a batch: 1, 2, 3 to 4, 5 to 8, ..."""
        size = (texts - 1).bit_length()
        if size not in self._economies:
            lanes = 1 << size
            lighter = max((known for known in self._economies if known < size), default=None)
            self._economies[size] = Economy(
                self.costs.verify_ms(lanes, lanes) / lanes, None if lighter is None else self._economies[lighter]
            )
        return self._economies[size]

    @property
    def priors(self) -> Priors:
        """What was learned, for statistics that start later."""
        return Priors(
            tuple(((best.slope, best.offset), (other.slope, other.offset)) for best, other in self.calibration),
            tuple(tuple(gain.value for gain in gains) for gains in self.deeper_gain),
            self.next_level.value,
        )

    @property
    def disagreement(self) -> float:
        """How far one text's times are from the measured costs."""
        return self.economy().disagreement


class PairStatistics:
    """What all texts of one draft and one target share. ``exits`` is empty without a draft model; ``costs`` is None
    where no policy asked for them.
    """

    def __init__(self, exits: tuple[int, ...], costs: Costs | None) -> None:
        self.exits, self.costs = exits, costs
        self._learned: dict[float, Learned] = {}

    def new(self, priors: Priors | None = None) -> Learned:
        """Statistics without any observation."""
        assert self.costs is not None
        return Learned(len(self.exits), self.costs, priors)

    def learned(self, temperature: float, priors: Priors | None = None) -> Learned:
        """The statistics of a temperature. At another one the draft ranks by other scores, so it has others."""
        near = rounded(temperature)
        if near not in self._learned:
            self._learned[near] = self.new(priors)
        return self._learned[near]

    @property
    def disagreement(self) -> float:
        """The largest of ``Learned.disagreement``."""
        return max((learned.disagreement for learned in list(self._learned.values())), default=1.0)


def rounded(temperature: float) -> float:
    """The temperature whose statistics serve this one: clients may ask for any number of different ones.

    Greedy is apart, and all above 2 are alike.
    """
    return min(max(round(temperature, 1), 0.1), 2.0) if temperature else 0.0
