"""Running the drafts of several texts together: what they ask of the same graph at the same time is one call.

A drafting text is a generator. It yields the call that it waits for and continues with the call's result, so its code
reads as that of one text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from runtime.backends import Candidates, DraftEngines, HeadLane, Lane

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SegmentCall:
    """Run a lane's rows through a segment; no result."""

    engines: DraftEngines
    segment: int
    lane: Lane

    @property
    def graph(self) -> tuple[int, int]:
        """Calls of the same graph run together."""
        return id(self.engines), self.segment

    @staticmethod
    def run(calls: Sequence[SegmentCall]) -> Sequence[None]:
        """One call of the segment."""
        calls[0].engines.forward(calls[0].segment, [call.lane for call in calls])
        return [None] * len(calls)


@dataclass(frozen=True, slots=True)
class HeadCall:
    """Run the head on a lane's rows; the result is their candidates."""

    engines: DraftEngines
    lane: HeadLane

    @property
    def graph(self) -> tuple[int, int]:
        """Calls of the same graph run together; the head follows all segments."""
        return id(self.engines), -1

    @staticmethod
    def run(calls: Sequence[HeadCall]) -> Sequence[Candidates]:
        """One call of the head."""
        return calls[0].engines.candidates([call.lane for call in calls])


Call = SegmentCall | HeadCall
Calls = Generator[Call, Any, Result]
"""A text's drafting: calls, their results, and what it returns in the end."""


def run_together(texts: Iterable[Calls[Result]]) -> list[Result]:
    """Run every text to its end; what they return, in their order.

    In each round all texts get what they wait for, one call for each graph. Results are valid until a graph's next
    call, so each text takes note of its own before it asks for another.
    """
    waiting: dict[int, tuple[Calls[Result], Call]] = {}
    returned: dict[int, Result] = {}

    def resume(number: int, text: Calls[Result], result: object) -> None:
        try:
            waiting[number] = text, text.send(result)
        except StopIteration as end:
            waiting.pop(number, None)
            returned[number] = end.value

    for number, text in enumerate(texts):
        resume(number, text, None)
    while waiting:
        rounds: dict[tuple[int, int], list[int]] = {}
        for number, (_, call) in waiting.items():
            rounds.setdefault(call.graph, []).append(number)
        for numbers in rounds.values():
            calls: Any = [waiting[number][1] for number in numbers]
            run: Callable[[Any], Sequence[object]] = calls[0].run
            for number, result in zip(numbers, run(calls), strict=True):
                resume(number, waiting[number][0], result)
    return [returned[number] for number in sorted(returned)]
