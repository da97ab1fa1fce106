"""The texts that are served: admits them, bounds how many wait, and follows each one until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from runtime.decoding.request import Step
from runtime.decoding.service import TextService
from runtime.serving.errors import ApiError, api_error, bad_request, unavailable
from runtime.serving.generation import Generation
from runtime.serving.observer import Observer

RETRY_SECONDS = 1
Given = TypeVar("Given")
Event = tuple[Generation, Step | None]


class ServedTexts:
    """All texts of one scheduler. Every method is called on the event loop; the scheduler has a thread of its own.

    At most ``sequences`` texts run and ``max_queue`` wait.
    """

    def __init__(self, service: TextService, sequences: int, max_queue: int, observer: Observer) -> None:
        self._service, self.sequences, self.max_queue, self._observer = service, sequences, max_queue, observer
        self._present: set[Generation] = set()
        self._closing: str | None = None
        self.idle = asyncio.Event()
        """Set while there is no text."""
        self.idle.set()

    @property
    def running(self) -> int:
        """Texts that have left the queue and have not ended."""
        return sum(generation.started is not None for generation in self._present)

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._present) - self.running

    def check_room(self, texts: int) -> None:
        """Raise ApiError where so many more texts cannot be taken."""
        if self._closing is not None:
            raise unavailable(self._closing, "shutting_down")
        if texts > self.sequences + self.max_queue:
            raise bad_request(
                f"the request asks for {texts} texts and this server takes {self.sequences + self.max_queue} at a time;"
                " ask for fewer choices or prompts",
                code="too_many_texts",
            )
        if len(self._present) + texts > self.sequences + self.max_queue:
            raise ApiError(
                429,
                f"{self.waiting} texts wait already; ask again later",
                code="queue_full",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )

    def submit(self, generations: Sequence[Generation]) -> TextEvents:
        """Let texts wait for their turn, all or none; close the events in any case.

        Raises:
            ApiError: the queue has no room for them, or the server is about to end.
        """
        self.check_room(len(generations))
        events = TextEvents(generations)
        for generation in generations:
            self._service.follow(generation.request, _Follower(self, generation, events))
            generation.queued = time.monotonic()
            self._present.add(generation)
            self.idle.clear()
            self._observer.queued(generation)
        return events

    def close(self, reason: str) -> None:
        """Take no more texts; those that are there go on."""
        self._closing = reason

    def cancel_all(self, reason: str) -> None:
        """End all texts before their next step; their clients are told the ``reason``."""
        for generation in self._present:
            if generation.refusal is None:
                generation.refusal = unavailable(reason, "shutting_down")
            generation.request.cancel()

    def began(self, generation: Generation) -> None:
        """A text has left the queue."""
        generation.started = time.monotonic()
        self._observer.started(generation)

    def stepped(self, generation: Generation, step: Step) -> None:
        """A text has gained tokens, or text that was held back."""
        now = time.monotonic()
        if step.tokens:
            generation.last_token = now
            generation.first_token = generation.first_token or now
        self._observer.stepped(generation, step)

    def ended(self, generation: Generation) -> None:
        """A text has ended."""
        generation.ended = time.monotonic()
        self._present.discard(generation)
        self._observer.finished(generation)
        if not self._present:
            self.idle.set()


class TextEvents:
    """What happens to the texts of one request, in order."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._generations = generations
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, generation: Generation, step: Step | None) -> None:
        """A step of a text, or None: it has ended."""
        self._events.put_nowait((generation, step))

    async def until_all_end(self, idle_seconds: float | None = None) -> AsyncIterator[Event | None]:
        """Each text and its next step, or None in place of the step when it has ended. None alone says that nothing
        came for ``idle_seconds``.

        Raises:
            ApiError: a text ended with an error.
        """
        left = len(self._generations)
        while left:
            try:
                async with asyncio.timeout(idle_seconds):
                    generation, step = await self._events.get()
            except TimeoutError:
                yield None
                continue
            if step is None:
                left -= 1
                _check_end(generation)
            yield generation, step

    def close(self) -> None:
        """Cancel the texts that have not ended."""
        for generation in self._generations:
            generation.request.cancel()


def _check_end(generation: Generation) -> None:
    if generation.refusal is not None:
        raise generation.refusal
    if generation.request.error is not None:
        raise api_error(generation.request.error)


class _Follower:
    """Hands what the scheduler's thread tells of one text over to the event loop."""

    def __init__(self, texts: ServedTexts, generation: Generation, events: TextEvents) -> None:
        self._texts, self._generation, self._events = texts, generation, events
        self._loop = asyncio.get_running_loop()

    def began(self) -> None:
        """The text has left the queue."""
        self._hand_over(self._texts.began, self._generation)

    def put(self, step: Step | None) -> None:
        """The next step, or None after the last one."""
        self._hand_over(self._take, step)

    def _take(self, step: Step | None) -> None:
        if step is None:
            self._texts.ended(self._generation)
        else:
            self._texts.stepped(self._generation, step)
        self._events.put(self._generation, step)

    def _hand_over(self, take: Callable[[Given], None], given: Given) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(take, given)
