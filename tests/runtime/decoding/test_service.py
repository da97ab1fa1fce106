"""The service takes texts from any thread or event loop, and each gets its own steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from s2d_trt.errors import OptionError, S2DError

PROMPTS = ["the draft proposes", "a tree of tokens", "the other one", "in one call the target", "disposes", "verified"]


@pytest.fixture
def service() -> Iterator[TextService]:
    with TextService(Scheduler(sequences=4)) as service:
        yield service


def make_request(decoder: Decoder, prompt: str, new: int = 24) -> Request:
    return decoder.request(prompt, max_new_tokens=new)


def alone(decoder: Decoder, prompt: str) -> list[int]:
    request = make_request(decoder, prompt)
    for _ in decoder.run(request):
        pass
    return request.tokens


def test_each_thread_gets_its_own_text(service: TextService, decoder: Decoder) -> None:
    def consume(prompt: str) -> list[int]:
        stream = service.submit(make_request(decoder, prompt))
        return [token for step in stream for token in step.tokens]

    expected = [alone(decoder, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(consume, PROMPTS)) == expected


def test_an_event_loop_gets_several_texts_at_once(service: TextService, decoder: Decoder) -> None:
    async def consume(prompt: str) -> list[int]:
        return [token async for step in service.stream(make_request(decoder, prompt)) for token in step.tokens]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*map(consume, PROMPTS))

    assert asyncio.run(all_of_them()) == [alone(decoder, prompt) for prompt in PROMPTS]


def test_cancelling_from_another_thread_ends_the_stream(service: TextService, decoder: Decoder) -> None:
    stream = service.submit(make_request(decoder, PROMPTS[0], new=200))
    steps = iter(stream)
    next(steps)
    stream.cancel()
    for _ in steps:
        pass
    assert stream.request.finish_reason == "cancelled"


def test_an_async_consumer_that_stops_cancels_its_text(service: TextService, decoder: Decoder) -> None:
    request = make_request(decoder, PROMPTS[0], new=200)

    async def first() -> None:
        steps = service.stream(request)
        await anext(steps)
        await steps.aclose()  # type: ignore[attr-defined]

    asyncio.run(first())
    assert request.cancelled


def test_an_error_reaches_the_consumer_of_its_text_alone(
    service: TextService, decoder: Decoder, other_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(parts: object) -> None:
        raise S2DError("the engine broke")

    monkeypatch.setattr(other_decoder.target, "run", refuse)
    broken = service.submit(make_request(other_decoder, PROMPTS[0]))
    whole = service.submit(make_request(decoder, PROMPTS[1]))
    with pytest.raises(S2DError, match="the engine broke"):
        list(broken)
    assert [token for step in whole for token in step.tokens] == alone(decoder, PROMPTS[1])


def test_a_request_that_has_run_is_refused(service: TextService, decoder: Decoder) -> None:
    stream = service.submit(make_request(decoder, PROMPTS[0], new=2))
    list(stream)
    with pytest.raises(OptionError, match="make a new one"):
        list(service.submit(stream.request))


def test_closing_cancels_what_runs_and_refuses_what_comes(decoder: Decoder) -> None:
    service = TextService()
    stream = service.submit(make_request(decoder, PROMPTS[0], new=200))
    next(iter(stream))
    service.close()
    assert stream.request.finished
    with pytest.raises(OptionError, match="closed"):
        service.submit(make_request(decoder, PROMPTS[0]))
