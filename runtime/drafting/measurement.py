"""Measuring the costs of a pair on this machine, and keeping them in the user's cache.

Other load only adds to a call's time, and it comes in bursts. So all calls are measured in turn, in several rounds, and
the fastest time of each counts. One process measures at a time. Costs whose rounds disagree are used, but measured
again at the next start and merged with the new ones; so a first start beside other load spoils nothing for good.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.backends import lanes_for
from runtime.drafting.costs import CONTEXT, WIDTHS, Costs
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft, flush_together
from runtime.machine.cache import cache_file, exclusive, write_cache
from runtime.sampling.noise import Noise
from runtime.targets.interface import TargetModel, TargetSequence
from runtime.tree.tree import Tree
from s2d_trt.reading import read_json

LONG_CONTEXT = 320
"""Tokens before the one row whose call shows what a longer text costs."""
ROUNDS, MOST_SECONDS = 5, 4.0
"""Rounds of a measurement; no further round begins after this time."""
STEADY = 1.35
"""Costs are steady if, for most calls, the median round takes at most this many times the fastest."""

WARM_CALLS = 6
LONG_CALL = 0.02
"""Seconds from which the state of the processor's caches makes no difference to a call."""
MOST_MEASUREMENTS = 4
"""Costs that are measured so often and still disagree are kept as they are."""

Progress = Callable[[str], None]


def measured_costs(
    target: TargetModel,
    draft: SortedDraft | None,
    progress: Progress,
    *,
    exact: bool,
    again: bool = False,
    lanes: int = 1,
) -> Costs:
    """The kept costs of these engines on this machine; if there are none, they are not steady, or ``again``, measure.

    ``exact`` measures the target's calls as exact decoding makes them, ``lanes`` is the most texts in one call.
    """
    path = _cache_file(target, draft, exact)
    kept = _read(path, draft)
    if kept is not None and not _covers(kept, target, lanes):
        kept, again = None, True
    if kept is not None and not again and (kept.steady or kept.measurements >= MOST_MEASUREMENTS):
        return kept
    with exclusive(path):
        latest = _read(path, draft)
        if latest is not None and latest != kept and latest.steady and not again:
            return latest  # another process measured while this one waited
        progress("measuring what calls cost on this machine")
        costs = measure(target, draft, exact=exact, lanes=lanes)
        # Costs that no longer hold are replaced; costs that were never steady improve with each measurement.
        if latest is not None and not again:
            costs = costs.merged(latest)
        write_cache(path, json.dumps(asdict(costs)))
    return costs


def _covers(costs: Costs, target: TargetModel, lanes: int) -> bool:
    measured = {1, *(count for count, _ in costs.verify_lanes)}
    return measured.issuperset(lanes_for(target.lanes, lanes))


def distrust(target: TargetModel, draft: SortedDraft | None, *, exact: bool) -> None:
    """Have the kept costs measured again at the next start, since steps disagree with them."""
    path = _cache_file(target, draft, exact)
    kept = _read(path, draft)
    if kept is not None and kept.measurements < MOST_MEASUREMENTS:
        write_cache(path, json.dumps(asdict(replace(kept, steady=False))))


def measure(target: TargetModel, draft: SortedDraft | None, *, exact: bool = False, lanes: int = 1) -> Costs:
    """Time every engine at every width, in rounds: about a second for small models, a few for large ones."""
    timed, exact_rows = _Timed(), WIDTHS[-1] if exact else 0
    verify_lanes = lanes_for(target.lanes, lanes)
    segment_lanes = lanes_for(draft.engines.lanes, lanes) if draft else (1,)
    contexts = min(CONTEXT, target.max_length // 2), min(LONG_CONTEXT, target.max_length - 1)
    with contextlib.ExitStack() as leased:
        texts = [target.lease(exact_rows) for _ in range(1 + verify_lanes[-1])]
        for text in texts:
            leased.callback(target.release, text)
            text.prefill([0] * contexts[text is texts[-1]])
        timed.add("verify", _verify_calls(target, texts[0]))
        timed.add("verify lanes", [partial(_verified, target, texts[:count]) for count in verify_lanes[1:]])
        timed.add("verify long", [partial(_verified, target, texts[-1:])])
        if draft is not None:
            drafting = [draft.empty_sequence() for _ in range(1 + segment_lanes[-1])]
            for sequence in drafting:
                leased.callback(sequence.release)
            for name, calls in _draft_calls(draft, drafting, segment_lanes):
                timed.add(name, calls)
        timed.run()
    segments = tuple(timed.milliseconds(f"segment {index}") for index in range(len(draft.exits) if draft else 0))
    head = timed.milliseconds("head") if draft else (0.0,) * len(WIDTHS)
    costs = Costs(timed.milliseconds("verify"), segments, head, steady=timed.steady)
    longer = (timed.milliseconds("verify long")[0] - costs.verify[0]) / max(1, contexts[1] - contexts[0])
    in_lanes = timed.milliseconds("segment lanes") if draft else ()
    long_segments = [timed.milliseconds(f"segment {index} long")[0] for index in range(len(segments))]
    further = max(1, _long_draft(draft) - 1 - min(CONTEXT, draft.max_length // 2)) if draft else 1
    return replace(
        costs,
        head=head if draft else (),
        verify_lanes=_extra(verify_lanes, timed.milliseconds("verify lanes"), costs.verify_ms),
        segment_lanes=_extra(segment_lanes, in_lanes, lambda rows: costs.exit_ms(0, rows, 0)),
        token=max(0.0, longer),
        segment_tokens=tuple(
            max(0.0, (long - short[0]) / further) for long, short in zip(long_segments, segments, strict=True)
        ),
    )


def _long_draft(draft: SortedDraft) -> int:
    """Tokens before the one row whose calls show what a longer text costs the draft."""
    return min(LONG_CONTEXT, draft.max_length - 1)


def _extra(
    lanes: Sequence[int], milliseconds: Sequence[float], of_one: Callable[[int], float]
) -> tuple[tuple[int, float], ...]:
    """What one row in each of some lanes takes more than as many rows of one text."""
    return tuple((count, max(0.0, ms - of_one(count))) for count, ms in zip(lanes[1:], milliseconds, strict=True))


@dataclass(slots=True)
class _Timed:
    """Calls by name, one for each width; each returns the seconds it took."""

    calls: dict[str, list[Callable[[], float]]] = field(default_factory=dict)
    rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def add(self, name: str, calls: list[Callable[[], float]]) -> None:
        self.calls[name] = calls

    def run(self) -> None:
        for calls in self.calls.values():
            for call in calls:
                call()  # the first call of a width prepares buffers
        began = time.perf_counter()
        while len(self.rounds) < ROUNDS and (len(self.rounds) < 2 or time.perf_counter() - began < MOST_SECONDS):
            self.rounds.append({name: [_warm(call) for call in calls] for name, calls in self.calls.items()})

    def milliseconds(self, name: str) -> tuple[float, ...]:
        """The fastest round of each width; more rows never cost less, but for noise."""
        if not self.calls[name]:
            return ()
        fastest = np.array([each[name] for each in self.rounds]).min(axis=0)
        return tuple((np.maximum.accumulate(fastest) * 1e3).tolist())

    @property
    def steady(self) -> bool:
        """Whether the rounds agree."""
        seconds = np.array([[time for times in each.values() for time in times] for each in self.rounds])
        return bool(np.median(np.median(seconds, axis=0) / seconds.min(axis=0)) <= STEADY)


def _warm(call: Callable[[], float]) -> float:
    """Seconds of a call after others of its kind: the first few after another engine's find cold caches."""
    first = call()
    return first if first > LONG_CALL else min(call() for _ in range(WARM_CALLS))


def _verify_calls(target: TargetModel, text: TargetSequence) -> list[Callable[[], float]]:
    def verify(rows: int) -> float:
        return _verified(target, [text], min(rows, target.max_rows, target.max_length - text.length))

    return [partial(verify, rows) for rows in WIDTHS]


def _verified(target: TargetModel, texts: Sequence[TargetSequence], rows: int = 1) -> float:
    """Seconds of a call with so many rows of each text."""
    tree = Tree.chain([0] * rows)
    began = time.perf_counter()
    for logits in target.run([(text, tree) for text in texts]):
        logits[0]  # reading a row waits for the call on a GPU
    return time.perf_counter() - began


def _draft_calls(
    draft: SortedDraft, sequences: Sequence[DraftSequence], lanes: Sequence[int]
) -> Iterator[tuple[str, list[Callable[[], float]]]]:
    # Enough tokens for the head's widest call, and room after them for the segments' calls.
    context = min(CONTEXT, draft.max_length // 2)
    *sequences, longest = sequences
    for sequence in sequences:
        sequence.prefill([0] * context)
    longest.prefill([0] * _long_draft(draft))
    first, noise = sequences[0], Noise(0, 0.0, draft.vocab_size).row(0)

    def run(segment: int, rows: int, texts: Sequence[DraftSequence] = (first,), context: int = context) -> float:
        for sequence in texts:
            sequence.truncate(context)
            sequence.enqueue([0] * min(rows, draft.max_length - context))
            for before in range(segment):
                sequence.flush(before)
        first.wait()
        began = time.perf_counter()
        flush_together(texts, segment)
        first.wait()
        return time.perf_counter() - began

    def answer(rows: int) -> float:
        began = time.perf_counter()
        first.candidates(0, min(rows, context, draft.engines.max_head_rows), noise)
        return time.perf_counter() - began

    for index in range(len(draft.exits)):
        yield f"segment {index}", [partial(run, index, rows) for rows in WIDTHS]
    yield "head", [partial(answer, rows) for rows in WIDTHS]
    yield "segment lanes", [partial(run, 0, 1, sequences[:count]) for count in lanes[1:]]
    for index in range(len(draft.exits)):
        yield f"segment {index} long", [partial(run, index, 1, [longest], _long_draft(draft) - 1)]


def _cache_file(target: TargetModel, draft: SortedDraft | None, exact: bool) -> Path:
    return cache_file("costs", target.identity, draft.identity if draft else "no draft", f"exact {exact}")


def _read(path: Path, draft: SortedDraft | None) -> Costs | None:
    """Kept costs, or None where there are none that can be used."""
    try:
        return read_costs(read_json(path), len(draft.exits) if draft else 0)
    except (OSError, ValueError):
        return None


def read_costs(data: Any, exits: int) -> Costs | None:
    """Costs from their JSON; None where they cannot be used with a draft of so many exits."""
    try:
        costs = msgspec.convert(data, Costs)
    except msgspec.ValidationError:
        return None
    engines = (costs.verify, *costs.segments, *((costs.head,) if exits else ()))
    complete = len(costs.segments) == len(costs.segment_tokens) == exits
    usable = all(len(times) == len(WIDTHS) and min(times) > 0 for times in engines)
    lanes = [[count for count, _ in extra] for extra in (costs.verify_lanes, costs.segment_lanes)]
    return costs if complete and usable and all(counts == sorted(set(counts)) for counts in lanes) else None
