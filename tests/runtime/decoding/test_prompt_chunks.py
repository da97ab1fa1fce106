"""Prompts are read in chunks beside texts that decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.pace import Pace
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.targets.interface import Chunk, Part
from runtime.tree.tree import Tree
from tests.runtime.decoding.cases import SURE
from tests.runtime.decoding.served import SHARED

pytestmark = pytest.mark.usefixtures("known_costs")


@pytest.fixture
def calls(decoders: list[Decoder], monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Of each call of the first target the sizes of its trees and of its chunks of prompts."""
    for decoder in decoders:
        decoder.prepare(sequences=8)  # the calls of the check are not those of texts
    made: list[tuple[list[int], list[int]]] = []
    run = decoders[0].target.run

    def noted(parts: Sequence[Part]) -> Any:
        trees = [len(part) for _, part in parts if isinstance(part, Tree)]
        made.append((trees, [len(part) for _, part in parts if isinstance(part, Chunk)]))
        return run(parts)

    monkeypatch.setattr(decoders[0].target, "run", noted)
    return made


def beside_a_decoding_text(decoder: Decoder, options: Options, prompts: Sequence[list[int]]) -> list[Request]:
    """A text decodes, and prompts join."""
    scheduler, first = Scheduler(), decoder.request([5, 9], replace(options, max_new_tokens=100))
    scheduler.add(first)
    scheduler.step()
    others = [decoder.request(prompt, replace(options, max_new_tokens=2)) for prompt in prompts]
    for request in others:
        scheduler.add(request)
    while not all(request.tokens for request in others):
        tokens = len(first.tokens)
        scheduler.step()
        assert len(first.tokens) > tokens  # it gains a token in every step
    scheduler.close()
    return others


def test_a_prompt_alone_is_read_in_the_largest_chunks(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    scheduler = Scheduler()
    scheduler.add(decoders[0].request([7] * 200, Options(1, draft=False)))
    while scheduler.busy:
        scheduler.step()
    assert calls == [([], [128]), ([], [72])]


def test_a_chunk_beside_a_decoding_text_has_as_many_rows_as_the_pace_leaves(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def room(pace: Pace, decoding_rows: int, prompts: int) -> float:
        asked.append((decoding_rows, prompts))
        return 5.7

    monkeypatch.setattr(Pace, "room", room)
    beside_a_decoding_text(decoders[0], Options(draft=False), [SHARED[:30], SHARED[:12]])
    beside = [chunks for trees, chunks in calls if trees and chunks]
    assert beside == [[5]] * 6 + [[5]] * 2 + [[2]]
    assert asked == [(1, 2)] * 6 + [(2, 1)] + [(1, 1)] * 2


def test_offline_a_prompt_is_read_in_the_largest_chunks_whoever_decodes(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    scheduler = Scheduler(offline=True)
    for length in (2, 150, 20):
        scheduler.add(decoders[0].request([7] * length, Options(6, draft=False)))
    scheduler.step()
    scheduler.step()
    scheduler.close()
    assert calls == [([], [2, 126]), ([1], [24, 20])]


def test_prompts_are_read_in_the_order_of_their_texts(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    scheduler = Scheduler()
    requests = [decoders[0].request([7 + number] * 100, Options(2, draft=False)) for number in range(3)]
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    assert calls == [([], [100, 28])]
    assert [bool(request.tokens) for request in requests] == [True, False, False]
    scheduler.close()


def test_the_draft_follows_a_prompt_that_is_read_in_chunks(decoders: list[Decoder]) -> None:
    """So that its first step does not wait for the draft's reading of the whole prompt."""
    decoder = decoders[0]
    scheduler, first = Scheduler(), decoder.request([5, 9], Options(100, policy=SURE))
    scheduler.add(first)
    scheduler.step()
    request = decoder.request(SHARED, Options(4, policy=SURE))
    scheduler.add(request)
    while not request.tokens:
        scheduler.step()
    assert request.drafting is not None
    backlog = request.drafting.sequences[0].prospect(9).backlog
    scheduler.close()
    assert backlog is not None
    assert backlog <= 64
