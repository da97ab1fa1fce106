"""What steps cost: the engines' calls as measured, how much longer they take in steps, and the host's work."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from runtime.drafting.costs import Costs
from runtime.drafting.measurement import read_costs
from runtime.evaluation.replay.recording import TextRecord
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result
from s2d_trt.reading import read_json

MOST_EXITS = 64


@dataclass(frozen=True, slots=True)
class Slowness:
    """Observed over measured time: of the target's calls where it runs alone; of its calls in steps in which the draft
    ran ``exits`` exits for a text, at most; of the draft's calls in steps whose longest draft has ``levels`` levels.
    Both numbers rise; between them lines are drawn.

    Calls that take turns find each other's weights in the processor's caches. The more the draft ran, the colder is the
    target's call. Of the draft the first run of each segment in a step is slow, the next ones are not.
    """

    alone: float = 1.0
    exits: tuple[float, ...] = (1.0,)
    verify: tuple[float, ...] = (1.0,)
    levels: tuple[float, ...] = (1.0,)
    draft: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Overhead:
    """What steps of ``texts`` texts take beyond measured calls: the calls' slowness, and the host's milliseconds of a
    step, those that a step with drafted tokens has more, those of each exit that ran for a text, and those of each
    drafted token that was accepted.
    """

    texts: int = 1
    slowness: Slowness = Slowness()
    host_step_ms: float = 0.0
    host_draft_ms: float = 0.0
    host_exit_ms: float = 0.0
    host_token_ms: float = 0.0
    noise: float = 0.0
    """The relative standard error of drafted over lone time: its spread over measured texts, and its drift."""

    @cached_property
    def verify_slowness(self) -> list[float]:
        """Of the target's call in a step in which the draft ran 0, 1, ... ``MOST_EXITS`` exits for a text."""
        slowness = self.slowness
        return [slowness.alone, *np.interp(range(1, MOST_EXITS + 1), slowness.exits, slowness.verify).tolist()]

    @cached_property
    def draft_slowness(self) -> list[float]:
        """Of the draft's calls in a step whose longest draft has 0, 1, ... levels."""
        numbers: list[float] = np.interp(range(MOST_EXITS + 1), self.slowness.levels, self.slowness.draft).tolist()
        return numbers

    def host_ms(self, drafted: int, exits: int, accepted: int) -> float:
        """Milliseconds outside engine calls of a step with so many drafted tokens (lookup's too), exits that ran, and
        drafted tokens that were accepted.
        """
        drafting = self.host_draft_ms + self.host_exit_ms * exits + self.host_token_ms * accepted
        return self.host_step_ms + (drafting if drafted else 0.0)


@dataclass(frozen=True)
class Prices:
    """``costs`` are of the engines' calls, what a policy knows; ``overheads`` say what steps take beyond them, for the
    numbers of texts that were probed.
    """

    costs: Costs
    overheads: tuple[Overhead, ...] = (Overhead(),)

    def of(self, texts: int) -> Overhead:
        """The overhead of so many texts; that of the nearest number, in proportion, where they were not probed."""
        if texts not in self._known:
            self._known[texts] = min(self.overheads, key=lambda each: abs(math.log(each.texts / texts)))
        return self._known[texts]

    @cached_property
    def _known(self) -> dict[int, Overhead]:
        return {}

    def verify_ms(self, rows: int, texts: int, context: int, exits: int = 0) -> float:
        """Milliseconds of the target's call in a step in which the draft ran so many exits for a text, at most."""
        return self.of(texts).verify_slowness[min(exits, MOST_EXITS)] * self.costs.verify_ms(rows, texts, context)

    def draft_ms(self, measured: float, levels: int, texts: int = 1) -> float:
        """Milliseconds of the draft's calls, ``measured`` alone, in a step whose longest draft has so many levels."""
        return measured * self.of(texts).draft_slowness[min(levels, MOST_EXITS)]

    def host_ms(self, drafted: int, exits: int = 0, accepted: int = 0, texts: int = 1) -> float:
        """As ``Overhead.host_ms``; the numbers are sums over the texts."""
        return self.of(texts).host_ms(drafted, exits, accepted)

    def alone_ms(self, record: TextRecord) -> float:
        """Milliseconds of a text without drafting."""
        return self.alone([record])[0]

    def alone(self, records: Sequence[TextRecord], texts: int = 1) -> list[float]:
        """Milliseconds of each text without drafting, ``texts`` at a time: the next one joins where one has ended, and
        those of a step bear equal parts of it.
        """
        spent = [0.0] * len(records)
        waiting = deque(number for number, record in enumerate(records) if len(record.tokens) > 1)
        lengths: dict[int, int] = {}  # of the texts that decode
        while waiting or lengths:
            while waiting and len(lengths) < texts:
                number = waiting.popleft()
                lengths[number] = len(records[number].prompt)
            together = len(lengths)
            step_ms = self.verify_ms(together, together, sum(lengths.values())) + self.host_ms(0, texts=together)
            for number, length in [*lengths.items()]:
                spent[number] += step_ms / together
                lengths[number] += 1
                if length + 2 == len(records[number].prompt) + len(records[number].tokens):
                    del lengths[number]
        return spent


def write_prices(prices: Prices, path: Path) -> None:
    """Keep prices in a JSON file. Raises OptionError where it cannot be written."""
    write_result(path, json.dumps(asdict(prices), indent=1) + "\n")


def read_prices(path: Path, exits: int) -> Prices:
    """Prices of a draft with so many exits. Raises OptionError."""
    try:
        data = read_json(path)
        costs: Costs | None = read_costs(data["costs"], exits)
        overheads = msgspec.convert(data["overheads"], tuple[Overhead, ...])
        if not overheads:
            raise ValueError("no overheads")
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OptionError(f"{path} holds no prices ({cause}); delete it, --prices then measures") from cause
    if costs is None:
        raise OptionError(f"{path} holds the prices of another kind of draft; measure this pair's")
    return Prices(costs, overheads)
