"""A scheduler in a thread of its own, for servers: texts come from any thread or event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from queue import SimpleQueue
from types import TracebackType

from runtime.decoding.request import Request, Step
from runtime.decoding.scheduler import Scheduler
from s2d_trt.errors import OptionError

Listener = Callable[[Step | None], None]
"""Takes each step of a text, and None after the last one."""


class TextStream:
    """The steps of a submitted text, in order. Iterating raises what ended the text with finish reason ``error``."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.steps: SimpleQueue[Step | None] = SimpleQueue()

    def __iter__(self) -> Iterator[Step]:
        while (step := self.steps.get()) is not None:
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
        self._changed = threading.Condition()
        self._submitted: list[tuple[Request, Listener]] = []
        self._listeners: dict[Request, Listener] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="s2d-trt scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> TextStream:
        """Let a text wait for its turn; the stream of its steps. Raises OptionError after ``close``."""
        stream = TextStream(request)
        self._submit(request, stream.steps.put)
        return stream

    async def stream(self, request: Request) -> AsyncIterator[Step]:
        """As ``submit``, for an event loop. A consumer that stops early cancels the text."""
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[Step | None]()

        def put(step: Step | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(steps.put_nowait, step)

        self._submit(request, put)
        try:
            while (step := await steps.get()) is not None:
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

    def _submit(self, request: Request, listener: Listener) -> None:
        with self._changed:
            if self._closed:
                raise OptionError("this service is closed; open another one")
            self._submitted.append((request, listener))
            self._changed.notify()

    def _serve(self) -> None:
        while self._take_submitted():
            try:
                steps = self._scheduler.step()
            except Exception as error:  # a fault of the scheduler itself must not end the service
                self._fail_all(error)
                continue
            for request, step in steps:
                self._listeners[request](step)
            self._end_finished()
        self._scheduler.close()
        self._end_finished()

    def _take_submitted(self) -> bool:
        """Wait for a text to run, and pass new ones on; False once the service is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._submitted or self._scheduler.busy)
            submitted, self._submitted = self._submitted, []
        for request, listener in submitted:
            self._listeners[request] = listener
            try:
                self._scheduler.add(request)
            except OptionError as error:
                request.error = error
                del self._listeners[request]
                listener(None)
        return not self._closed

    def _end_finished(self) -> None:
        for request in [request for request in self._listeners if request.finished]:
            self._listeners.pop(request)(None)

    def _fail_all(self, error: Exception) -> None:
        for request in self._listeners:
            request.finish_reason, request.error = request.finish_reason or "error", request.error or error
        self._scheduler.close()
        self._end_finished()
