"""The tables of a comparison: speeds, ratios to ours, and how often tokens are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.peers.catalogue import OURS
from tests.benchmarks.peers.measure import Outcome

Margin = Callable[[list[int], list[int], list[int]], float]
"""From prompt and two continuations: the difference of the target's logits at their first different token."""

TIE = 1e-3
"""Logits closer than this are equal up to rounding, and either token is right."""


def rows(
    outcomes: Sequence[Outcome],
    prompts: Sequence[list[int]],
    temperature: float,
    margin: Margin,
    fewest: Sequence[Outcome] = (),
) -> list[dict[str, Any]]:
    """A row for each contender; tokens are compared at temperature 0 only, since each library draws its own noise.

    ``fewest`` are the outcomes of the smallest batches, for larger ones to compare with.
    """
    drafted = [each for each in outcomes if each.contender.peer == OURS and each.contender.speculates and each.rounds]
    alone = _alone(outcomes)
    reference = _alone(fewest or outcomes).get((OURS, "fp32"))
    smallest = {each.contender.label: each for each in fewest if each.rounds}
    found = []
    for outcome in outcomes:
        contender = outcome.contender
        row: dict[str, Any] = {"peer": contender.peer, "weights": contender.precision, "mode": contender.mode}
        if not outcome.rounds:
            row["tokens/s"] = f"failed: {outcome.failure}" if outcome.failure else "not measured"
            found.append(row)
            continue
        row["tokens/s"] = outcome.speed
        row["rounds"] = [f"{speed:.3g}" for speed in outcome.speeds]
        own = alone.get((contender.peer, contender.precision))
        if own is not None:
            row["over its target alone"] = _ratio(outcome, own)
        if (same := smallest.get(contender.label)) is not None:
            row[f"over {same.contender.texts} at once"] = _ratio(outcome, same)
        for ours in drafted:
            row[f"{ours.contender.mode.replace('S2D', f'S2D {ours.contender.precision}')} over it"] = _ratio(
                ours, outcome
            )
        if temperature == 0:
            row["same as fp32"] = _agreement(outcome, reference, prompts, margin)
            row["same as its alone"] = _agreement(outcome, own, prompts, None)
            if same is not None:
                row[f"same as {same.contender.texts} at once"] = _agreement(outcome, same, prompts, None)
        if outcome.failure:
            row["stopped"] = outcome.failure
        found.append(row)
    return found


def batch_tables(
    title: str, outcomes: Sequence[Outcome], prompts: Sequence[list[int]], temperature: float, margin: Margin
) -> dict[str, list[dict[str, Any]]]:
    """A table for each number of texts, and one of the fastest modes at each number, by title."""
    numbers = sorted({each.contender.texts for each in outcomes if each.contender.texts is not None})
    batches = {number: [each for each in outcomes if each.contender.texts == number] for number in numbers}
    tables = {}
    for number, batch in batches.items():
        fewest = [] if number == numbers[0] else batches[numbers[0]]
        tables[f"{title}, {number} at once"] = rows(batch, prompts, temperature, margin, fewest)
    tables[f"{title}: fastest modes"] = [
        {"texts": number, **row} for number, batch in batches.items() for row in best_modes(batch)
    ]
    return tables


def best_modes(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Ratio of our fastest mode to each library's fastest, at each precision and at any."""
    found = []
    measured = [outcome for outcome in outcomes if outcome.rounds]
    peers = dict.fromkeys(outcome.contender.peer for outcome in measured if outcome.contender.peer != OURS)
    for precision in ("fp32", "int8", "int4", "any"):
        there = [each for each in measured if precision in (each.contender.precision, "any")]
        ours = max((each for each in there if each.contender.peer == OURS), key=lambda each: each.speed, default=None)
        for peer in peers:
            theirs = [each for each in there if each.contender.peer == peer]
            if ours is None or not theirs:
                continue
            best = max(theirs, key=lambda each: each.speed)
            found.append(
                {
                    "weights": precision,
                    "ours": f"{ours.contender.precision} {ours.contender.mode}",
                    "peer": peer,
                    "its best": f"{best.contender.precision} {best.contender.mode}",
                    "ours over it": _ratio(ours, best),
                }
            )
    return found


def _alone(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Outcome]:
    """The measured targets alone, by library and weights."""
    return {
        (each.contender.peer, each.contender.precision): each
        for each in outcomes
        if not each.contender.speculates and each.rounds
    }


def _ratio(ours: Outcome, theirs: Outcome) -> float:
    """Median over rounds of the ratio within a round."""
    return median(a / b for a, b in zip(ours.speeds, theirs.speeds, strict=False))


def _agreement(outcome: Outcome, reference: Outcome | None, prompts: Sequence[list[int]], margin: Margin | None) -> str:
    if reference is None:
        return ""
    same, ties = 0, 0
    for prompt, theirs, ours in zip(prompts, outcome.tokens, reference.tokens, strict=True):
        if theirs == ours:
            same += 1
        elif margin is not None and margin(prompt, theirs, ours) < TIE:
            ties += 1
    return f"{same}/{len(prompts)}" + (f" and {ties} ties" if ties else "")
