"""The memory of caches: texts that outgrow it, and rows that later texts take over."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.leasing import bytes_of
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.evaluation.comparison import same_bits, target_alone
from runtime.targets.interface import Chunk, Part
from runtime.targets.target import Target
from tests.runtime.decoding.cases import SURE, WARM
from tests.runtime.decoding.served import NEW, PROMPTS, SHARED, Text, serve

pytestmark = pytest.mark.usefixtures("known_costs")


def test_texts_that_outgrow_the_memory_wait_and_go_on_where_they_were(
    decoders: list[Decoder], alone: Callable[[Text], Request]
) -> None:
    texts = [Text(prompt=1, options=Options(NEW, replace(WARM, seed=seed), policy=SURE)) for seed in range(6)]
    requests = [decoders[0].request(PROMPTS[text.prompt], text.options) for text in texts]
    scheduler = Scheduler(memory=CacheMemory(limit=4 * bytes_of(requests[0])))
    for request in requests:
        scheduler.add(request)
    restarted: set[int] = set()
    while scheduler.busy:
        running = list(scheduler.running)
        scheduler.step()
        restarted |= {requests.index(request) for request in running if request in scheduler.waiting}
        assert len(scheduler.running) <= 4
    assert restarted, "no text outgrew the memory: the test shows nothing"
    assert 0 not in restarted  # the oldest goes on
    assert all(same_bits(request, alone(text)) for text, request in zip(texts, requests, strict=True))


def test_a_text_larger_than_the_memory_runs_by_itself(
    decoders: list[Decoder], alone: Callable[[Text], Request]
) -> None:
    texts = [Text(prompt=1), Text(prompt=2)]
    scheduler = Scheduler(memory=CacheMemory(limit=1))
    requests = serve(scheduler, decoders, texts)
    assert all(same_bits(request, alone(text)) for text, request in zip(texts, requests, strict=True))


# Prefixes


@pytest.fixture
def prompt_rows(decoders: list[Decoder], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the chunks of prompts that the first target runs."""
    rows: list[int] = []
    run = decoders[0].target.run

    def noted(parts: Sequence[Part]) -> Any:
        rows.extend(len(part) for _, part in parts if isinstance(part, Chunk))
        return run(parts)

    monkeypatch.setattr(decoders[0].target, "run", noted)
    return rows


@pytest.mark.parametrize(("first", "second", "computed"), [(6, 7, 14), (3, 4, 2), (4, 3, 64), (2, 6, 141), (6, 6, 13)])
def test_rows_of_an_earlier_text_are_not_computed_again(
    decoders: list[Decoder],
    alone: Callable[[Text], Request],
    prompt_rows: list[int],
    first: int,
    second: int,
    computed: int,
) -> None:
    text = Text(prompt=second, options=Options(NEW, WARM))
    expected, memory = alone(text), CacheMemory(prefix_bytes=2**24)
    serve(Scheduler(memory=memory), decoders, [Text(prompt=first)])
    prompt_rows.clear()
    (request,) = serve(Scheduler(memory=memory), decoders, [text])
    assert sum(prompt_rows) == computed
    assert memory.restored_tokens == len(PROMPTS[second]) - computed
    assert same_bits(request, expected)


def test_a_chat_turn_begins_with_the_rows_of_the_turn_before(decoders: list[Decoder], prompt_rows: list[int]) -> None:
    memory, decoder = CacheMemory(prefix_bytes=2**24), decoders[0]
    scheduler, first = Scheduler(memory=memory), decoder.request(SHARED[:100], Options(40))
    scheduler.add(first)
    while scheduler.busy:
        scheduler.step()
    prompt_rows.clear()
    # Of the 139 or 140 committed tokens two blocks of 64 are whole.
    second = decoder.request([*first.prompt, *first.tokens, 1, 2, 3], Options(4))
    scheduler.add(second)
    while scheduler.busy:
        scheduler.step()
    assert sum(prompt_rows) == 143 - 128
    assert same_bits(second, target_alone(decoder, second.prompt, second.options, exact=True))


@pytest.mark.parametrize("exact", [True, False])
def test_only_rows_whose_bits_do_not_depend_on_the_call_are_kept(decoders: list[Decoder], exact: bool) -> None:
    memory = CacheMemory(prefix_bytes=2**24)
    for _ in range(2):
        serve(Scheduler(memory=memory), decoders, [Text(prompt=6, options=Options(NEW, exact=exact))])
    assert memory.restored_tokens == (128 if exact else 0)


def test_the_rows_of_a_target_go_with_it(target_bundle: Path) -> None:
    # Otherwise a later target could be taken for it.
    memory = CacheMemory(prefix_bytes=2**24)
    serve(Scheduler(memory=memory), [Decoder(Target.open(target_bundle, Placement(threads=1)))], [Text(prompt=6)])
    gc.collect()
    assert not memory._prefixes


# Cancelling and errors
