"""From a request to its answer: what completions and chats have in common."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from runtime.decoding.request import Request, Step
from runtime.serving.answers import ChatChunk, Completion, FinishReason, Metrics, PromptTokens, Usage
from runtime.serving.exchange import Exchange, body_of, exchange_of, json_response, while_connected
from runtime.serving.fields import Generation as GenerationBody
from runtime.serving.fields import StreamOptions
from runtime.serving.generation import Generation
from runtime.serving.requests import text_count
from runtime.serving.speculation import metrics
from runtime.serving.state import ServerState
from runtime.serving.stream import EventStream
from runtime.serving.targets import ServedTarget
from runtime.serving.texts import TextEvents

Body = TypeVar("Body", bound=GenerationBody)
Measured = Completion | ChatChunk
"""Parts that may have the usage and the metrics."""

FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "capacity": "length"}


class StreamedAnswer(ABC, Generic[Body]):
    """Builds the parts of one answer from the steps of its texts."""

    def __init__(self, body: Body, served: ServedTarget, generations: Sequence[Generation], request_id: str) -> None:
        self.body, self.served, self.generations = body, served, generations
        self.head: dict[str, Any] = {
            "id": f"{self.prefix}-{request_id}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    prefix: str
    """Of the answer's id."""

    @abstractmethod
    def part(self, generation: Generation, step: Step) -> Struct | None:
        """What a step adds to a stream; None where that is nothing."""

    @abstractmethod
    def end(self, generation: Generation) -> Struct:
        """The part with a choice's finish reason."""

    def last(self) -> Struct | None:
        """A part without a choice, for the usage."""

    def finish_reason(self, generation: Generation) -> FinishReason:
        """Why a text has ended."""
        return FINISH[generation.request.finish_reason or "length"]

    def usage(self, new: int | None = None) -> Usage:
        """Tokens of all texts, or so many new ones; a prompt counts once, whatever the number of its choices."""
        choices = self.body.n or 1
        prompts = sum(len(generation.request.prompt) for generation in self.generations[::choices])
        cached = sum(generation.request.stats.restored for generation in self.generations[::choices])
        if new is None:
            new = sum(len(generation.request.tokens) for generation in self.generations)
        return Usage(prompts, new, prompts + new, PromptTokens(cached))

    async def parts(self, events: TextEvents, keep_alive: float) -> AsyncGenerator[Struct | None, None]:
        """All parts of a stream; None where nothing came for ``keep_alive`` seconds."""
        wanted = self.body.stream_options or StreamOptions()
        left, new = len(self.generations), 0
        async for event in events.until_all_end(keep_alive):
            if event is None:
                yield None
                continue
            generation, step = event
            part = self.end(generation) if step is None else self.part(generation, step)
            left, new = left - (step is None), new + (len(step.tokens) if step else 0)
            if part is None:
                continue
            if isinstance(part, Measured) and wanted.continuous_usage_stats:
                part.usage = self.usage(new)
            if isinstance(part, Measured) and not (left or wanted.include_usage):
                part.metrics = metrics(self.generations)
            yield part
        if wanted.include_usage and isinstance(last := self.last(), Measured):
            last.usage, last.metrics = self.usage(), metrics(self.generations)
            yield last


class Answer(StreamedAnswer[Body]):
    """Builds one answer, whole or in parts."""

    @abstractmethod
    def whole(self, usage: Usage, metrics: Metrics) -> Struct:
        """The answer, after all steps were given to ``part``."""

    async def complete(self, events: TextEvents) -> Struct:
        """The whole answer."""
        async for event in events.until_all_end():
            if event is not None and event[1] is not None:
                self.part(event[0], event[1])
        return self.whole(self.usage(), metrics(self.generations))


async def answer(
    http: HttpRequest,
    state: ServerState,
    kind: type[Body],
    make_requests: Callable[[Body, ServedTarget], list[Request]],
    make_answer: Callable[[Body, ServedTarget, Sequence[Generation], str], StreamedAnswer[Body]],
) -> Response:
    """Read the body, run its texts, and send what they give: as a stream where the body asks for one, or where there is
    no other answer.

    Raises:
        ApiError, S2DError: the body or an option is wrong, or there is no room. ClientGone: nobody is there.
    """
    exchange, limits = exchange_of(http), state.limits
    body = await body_of(http, kind, limits.max_body, limits.body_seconds)
    served = state.target(body.model)
    exchange.model, exchange.user = served.name, body.user
    state.observer.received(served.name)
    texts = state.texts
    texts.check_room(text_count(body))
    requests = await asyncio.to_thread(make_requests, body, served)
    exchange.generations = _generations(requests, served, exchange)
    built = make_answer(body, served, exchange.generations, exchange.request_id)
    deadline = None if limits.request_seconds is None else exchange.arrived + limits.request_seconds
    events = texts.submit(exchange.generations)
    if body.stream or not isinstance(built, Answer):
        return EventStream(http, events, built.parts(events, limits.keep_alive_seconds), deadline)
    try:
        return json_response(await while_connected(http, built.complete(events), deadline))
    finally:
        events.close()


def _generations(requests: Sequence[Request], served: ServedTarget, exchange: Exchange) -> list[Generation]:
    return [
        Generation(request, served.name, exchange.request_id, index, exchange.arrived)
        for index, request in enumerate(requests)
    ]
