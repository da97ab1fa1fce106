"""A scheduler in a thread of its own, for servers: texts come from any thread or event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

from runtime.decoding.request import Request, Step
from runtime.decoding.scheduler import Scheduler
from s2d_trt.errors import OptionError


class Listener(Protocol):
    """Follows one text, in the service's thread: its methods must be quick and must not raise."""

    def began(self) -> None:
        """The text has left the queue."""

    def put(self, step: Step | None) -> None:
        """The next step of the text, and None after the last one."""


class TextStream:
    """The steps of a submitted text, in order. Iterating raises what ended the text with finish reason ``error``."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._steps: SimpleQueue[Step | None] = SimpleQueue()

    def began(self) -> None:
        """The text has left the queue."""

    def put(self, step: Step | None) -> None:
        """Take the next step from the service."""
        self._steps.put(step)

    def __iter__(self) -> Iterator[Step]:
        while (step := self._steps.get()) is not None:
            yield step
        if self.request.error is not None:
            raise self.request.error

    def cancel(self) -> None:
        """End the text before its next step, from any thread."""
        self.request.cancel()


class TextService:
    """Serves texts until it is closed, at the end of its ``with`` block or by ``close``.

    All methods may be called from any thread. A text whose error is not that of its request alone ends with finish
    reason ``error``; the service goes on.
    """

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        self._scheduler = scheduler or Scheduler()
        self._scheduler.on_begin = self._began
        self._changed = threading.Condition()
        self._submitted: list[Request] = []
        self._listeners: dict[Request, Listener] = {}
        """Of every text that was submitted and has not ended."""
        self._begun: set[Request] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="s2d-trt scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> TextStream:
        """Let a text wait for its turn; the stream of its steps.

        Raises:
            OptionError: the text has run before, or the service is closed.
        """
        stream = TextStream(request)
        self.follow(request, stream)
        return stream

    def follow(self, request: Request, listener: Listener) -> None:
        """As ``submit``, with a listener of your own."""
        with self._changed:
            if self._closed:
                raise OptionError("this service is closed; open another one")
            if request.started or request in self._listeners:
                raise OptionError("this request has been run before; make a new one")
            self._listeners[request] = listener
            self._submitted.append(request)
            self._changed.notify()

    async def stream(self, request: Request) -> AsyncIterator[Step]:
        """As ``submit``, for an event loop. A consumer that stops early cancels the text."""
        stream = _LoopStream()
        self.follow(request, stream)
        try:
            while (step := await stream.steps.get()) is not None:
                yield step
            if request.error is not None:
                raise request.error
        finally:
            request.cancel()

    def close(self) -> None:
        """Cancel all texts and wait for the thread's end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> TextService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while self._take_submitted():
            try:
                steps = self._scheduler.step()
            except Exception as error:  # a fault of the scheduler itself must not end the service
                self._fail_all(error)
                continue
            for request, step in steps:
                self._listeners[request].put(step)
            self._end_finished()
        self._scheduler.close()
        self._end_finished()

    def _take_submitted(self) -> bool:
        """Wait for a text to run, and pass new ones on; False once the service is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._submitted or self._scheduler.busy)
            submitted, self._submitted = self._submitted, []
        for request in submitted:
            self._scheduler.add(request)
        return not self._closed

    def _end_finished(self) -> None:
        with self._changed:
            finished = [request for request in self._listeners if request.finished]
            listeners = [self._listeners.pop(request) for request in finished]
            self._begun.difference_update(finished)
        for listener in listeners:
            listener.put(None)

    def _began(self, request: Request) -> None:
        if request not in self._begun:
            self._begun.add(request)
            self._listeners[request].began()

    def _fail_all(self, error: Exception) -> None:
        for request in (*self._scheduler.waiting, *self._scheduler.running):
            if not request.finished:
                request.fail(error)
        self._scheduler.close()
        self._end_finished()


class _LoopStream:
    """Hands steps over to the event loop that it was made in."""

    def __init__(self) -> None:
        self._loop, self.steps = asyncio.get_running_loop(), asyncio.Queue[Step | None]()

    def began(self) -> None:
        """The text has left the queue."""

    def put(self, step: Step | None) -> None:
        """Take the next step from the service."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.steps.put_nowait, step)
