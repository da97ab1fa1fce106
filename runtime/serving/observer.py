"""What the server tells others about the texts that it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from runtime.decoding.request import Step
from runtime.serving.generation import Generation

_log = logging.getLogger(__name__)


class Observer:
    """Follows requests and texts, for metrics and pages. Derive from it and define the methods of interest.

    All methods run on the event loop's thread, one at a time, so they need no lock and must not block. An exception in
    one is logged and harms nothing. For each text the order is ``queued``, ``started``, ``stepped`` any number of
    times, ``finished``; a text that is cancelled while it waits is not ``started``. ``finished`` always comes.

    Until ``finished``, the scheduler's thread changes ``generation.request``: read single attributes of it, or copies
    (``list(...)``, ``dict(...)``), which Python makes in one go. Afterwards it does not change any more.
    """

    def received(self, target: str) -> None:
        """A request for ``target`` was understood; it will be queued or refused."""

    def refused(self, target: str | None, status: int) -> None:
        """A request was answered with an error ``status``; ``target`` is None where it is not known."""

    def queued(self, generation: Generation) -> None:
        """A text waits for its turn."""

    def started(self, generation: Generation) -> None:
        """A text has left the queue; its prompt is computed next."""

    def stepped(self, generation: Generation, step: Step) -> None:
        """A text gained ``step.tokens``, of which the first ``step.drafted`` were drafted."""

    def finished(self, generation: Generation) -> None:
        """A text has ended, for ``generation.request.finish_reason``; its ``stats`` are whole."""


class Observers(Observer):
    """Passes everything on to each of several observers; an error in one reaches neither the others nor a text."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = list(observers)

    def received(self, target: str) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.received(target))

    def refused(self, target: str | None, status: int) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.refused(target, status))

    def queued(self, generation: Generation) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.queued(generation))

    def started(self, generation: Generation) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.started(generation))

    def stepped(self, generation: Generation, step: Step) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.stepped(generation, step))

    def finished(self, generation: Generation) -> None:
        """Pass on."""
        self._tell(lambda observer: observer.finished(generation))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                _log.exception("an observer failed")
