"""The scheduler: order, turns, cancelled texts, and errors that end no other text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.evaluation.comparison import same_bits
from s2d_trt.errors import OptionError, S2DError
from tests.runtime.decoding.cases import SURE, WARM
from tests.runtime.decoding.served import GREEDY, NEW, PROMPTS, Leases, Text, serve

pytestmark = pytest.mark.usefixtures("known_costs")


def admitted(scheduler: Scheduler, requests: Sequence[Request]) -> list[int]:
    """The numbers of the requests in the order in which they begin."""
    order: list[int] = []
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        running = set(scheduler.running)
        scheduler.step()
        began = [request for request in requests if request.tokens and requests.index(request) not in order]
        assert len(running) <= scheduler.sequences
        order += [requests.index(request) for request in began]
    return order


def test_waiting_texts_keep_their_order(decoders: list[Decoder]) -> None:
    requests = [decoders[number % 2].request([5, 9], Options(2 + number % 3)) for number in range(7)]
    assert admitted(Scheduler(sequences=2), requests) == list(range(7))


def test_texts_run_together_up_to_the_number_of_sequences(decoders: list[Decoder]) -> None:
    scheduler = Scheduler(sequences=3)
    for number in range(5):
        scheduler.add(decoders[0].request([5, number + 1], Options(5)))
    scheduler.step()
    assert (len(scheduler.running), len(scheduler.waiting)) == (3, 2)
    scheduler.close()
    assert not scheduler.busy


def test_a_text_joins_between_steps_and_leaves_when_it_ends(decoders: list[Decoder]) -> None:
    scheduler, first, second = (
        Scheduler(),
        *(decoders[0].request([5, 9], Options(count, draft=False)) for count in (3, 6)),
    )
    scheduler.add(first)
    scheduler.step()
    scheduler.add(second)
    scheduler.step()
    assert scheduler.running == [first, second]
    while not first.finished:
        scheduler.step()
    assert scheduler.running == [second]
    scheduler.close()


@pytest.mark.parametrize("sequences", [0, -1])
def test_a_scheduler_that_can_run_no_text_is_refused(sequences: int) -> None:
    with pytest.raises(OptionError, match="allow at least 1"):
        Scheduler(sequences)


def test_a_request_is_taken_once(decoders: list[Decoder]) -> None:
    scheduler, request = Scheduler(), decoders[0].request([5, 9], Options(2))
    scheduler.add(request)
    with pytest.raises(OptionError, match="run before"):
        scheduler.add(request)
    assert list(scheduler.waiting) == [request]
    scheduler.close()
    assert request.finish_reason == "cancelled"


@pytest.mark.parametrize("waits", [False, True])
def test_a_cancelled_text_gives_back_what_it_holds_within_a_step(decoders: list[Decoder], waits: bool) -> None:
    scheduler = Scheduler(sequences=1 if waits else 4)
    requests = [decoders[0].request([5, number + 1], Options(NEW)) for number in range(3)]
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    leases = Leases(decoders)
    before = leases.free
    requests[-1].cancel()
    scheduler.step()
    assert requests[-1].finish_reason == "cancelled"
    assert requests[-1] not in [*scheduler.running, *scheduler.waiting]
    assert [after - free for after, free in zip(leases.free, before, strict=True)] == ([0] * 3 if waits else [1, 1, 0])
    scheduler.close()


@dataclass
class Breaking:
    """An engine whose calls fail from the ``at``-th on."""

    run: Callable[..., Any]
    at: int
    calls: int = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls >= self.at:
            raise RuntimeError("the engine is gone")
        return self.run(*arguments)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_error_of_one_targets_engine_ends_its_texts_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    texts = [
        Text(decoder, prompt, Options(NEW, sampling))
        for decoder, prompt, sampling in [(0, 0, GREEDY), (1, 2, WARM), (0, 2, WARM), (1, 4, GREEDY)]
    ]
    expected = [alone(text) for text in texts]
    leases = Leases(decoders)
    before, engine = leases.free, decoders[1].target.engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", Breaking(engine.forward, at))
        requests = serve(Scheduler(), decoders, texts)
    for text, request, whole in zip(texts, requests, expected, strict=True):
        if text.decoder == 0:
            assert same_bits(request, whole)
        else:
            assert request.finish_reason == "error"
            assert str(request.error) == "the engine is gone"
            assert request.tokens == whole.tokens[: len(request.tokens)]
    leases.check(requests, before)
    (again,) = serve(Scheduler(), decoders, [texts[1]])
    assert same_bits(again, expected[1])


def test_an_error_of_the_draft_ends_the_texts_that_draft(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        Text(options=Options(NEW, policy=SURE)),
        Text(1, options=Options(NEW, policy=SURE)),
        Text(prompt=1, options=Options(NEW, draft=False)),
    ]
    expected, leases = [alone(text) for text in texts], Leases(decoders)
    before, engines = leases.free, decoders[0].draft.engines
    with monkeypatch.context() as patch:
        patch.setattr(engines, "forward", Breaking(engines.forward, 4))
        requests = serve(Scheduler(), decoders, texts)
    assert [request.finish_reason for request in requests] == ["error", "error", "length"]
    assert same_bits(requests[2], expected[2])
    leases.check(requests, before)
    assert all(map(same_bits, serve(Scheduler(), decoders, texts), expected))


def test_what_cannot_be_promised_to_one_text_ends_that_text_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def inexact(*_: object) -> None:
        raise S2DError("other bits")

    texts = [Text(), Text(1, options=Options(NEW, exact=True))]
    expected = alone(texts[0])
    monkeypatch.setattr(decoders[1].target, "check_exact", inexact)
    fresh = [decoders[0], Decoder(decoders[1].target, decoders[1].draft)]
    requests = serve(Scheduler(), fresh, texts)
    assert same_bits(requests[0], expected)
    assert (requests[1].finish_reason, str(requests[1].error)) == ("error", "other bits")
    assert requests[1].sequence is None


@pytest.mark.parametrize("where", ["push", "finish"])
def test_a_text_whose_tokens_cannot_be_decoded_ends_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    texts = [Text(), Text(prompt=1), Text(prompt=2)]
    expected, leases = [alone(text) for text in texts], Leases(decoders)
    before, scheduler = leases.free, Scheduler()
    requests = [decoders[0].request(PROMPTS[text.prompt], text.options) for text in texts]

    def broken(*_: object) -> None:
        raise RuntimeError("no text")

    for request in requests:
        scheduler.add(request)
    scheduler.step()
    monkeypatch.setattr(requests[1]._stream, where, broken)
    if where == "finish":
        requests[1].cancel()
    while scheduler.busy:
        scheduler.step()
    assert (requests[1].finish_reason, str(requests[1].error)) == ("error", "no text")
    assert same_bits(requests[0], expected[0])
    assert same_bits(requests[2], expected[2])
    leases.check(requests, before)


# A long prompt beside a text that decodes
