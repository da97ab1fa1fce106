"""Continuous batching: the decoding loop of all texts. Plan what to verify, verify it, commit what the targets accept.

Texts join and leave between steps. The texts of one target share its calls, and all texts share the calls of a draft.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from runtime.decoding.batch import CallReport, Steps, TargetBatch, draft_together
from runtime.decoding.memory import CacheMemory
from runtime.decoding.pace import Pace
from runtime.decoding.request import Request, Step
from runtime.decoding.turns import turns
from runtime.targets.interface import TargetModel
from s2d_trt.errors import OptionError


class Scheduler:
    """Runs texts of any number of targets, at most ``sequences`` at a time; the others wait in order.

    Where a target is exact, a text's bits do not depend on who else is served. ``memory`` limits the bytes of caches
    and keeps those of prefixes for later texts. Chunks of prompts are so small that the texts which decode are not
    delayed for long; ``offline``, they are as large as possible, which gives most tokens a second. Only one thread at a
    time may call the methods; schedulers of several threads take turns on engines that they share.
    """

    def __init__(self, sequences: int = 8, memory: CacheMemory | None = None, offline: bool = False) -> None:
        if sequences < 1:
            raise OptionError(f"{sequences} sequences cannot run a text; allow at least 1")
        self.sequences, self.memory, self._offline = sequences, memory or CacheMemory(), offline
        self.waiting: deque[Request] = deque()
        """Texts that wait for their turn."""
        self.running: list[Request] = []
        """Texts that take part in steps, the oldest first."""
        self.watchers: list[Callable[[CallReport], None]] = []
        """They are told of every call of a target, in the thread that steps, before the texts' consumers are."""
        self.on_begin: Callable[[Request], None] = lambda _: None
        """Called when a text begins, and again when it begins anew after it had to wait for memory."""
        self._paces: WeakKeyDictionary[TargetModel, Pace] = WeakKeyDictionary()

    @property
    def busy(self) -> bool:
        """Whether a text waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Let a text wait for its turn. Raises OptionError where it has run before."""
        if request.started:
            raise OptionError("this request has been run before; make a new one")
        request.started = True
        self.waiting.append(request)

    def step(self) -> Steps:
        """Run one step of all running texts; what each of them gained.

        An error of an engine ends the texts of its call, with finish reason ``error`` and ``request.error``; the texts
        of other targets go on.
        """
        with turns(request.pair for request in (*self.waiting, *self.running)):
            return self._step()

    def _step(self) -> Steps:
        steps = self._end_cancelled()
        self._admit()
        batches = self._batches()
        try:
            draft_together(batches)
        except Exception as error:  # the texts that draft together end together
            _fail([request for batch in batches for request in batch.drafting], error)
        for batch in batches:
            try:
                steps += batch.verify_and_commit()
            except Exception as error:
                _fail(batch.texts, error)
        self._retire()
        for batch in batches:
            if batch.report is not None:
                self._tell(batch.report)
        return steps

    def _batches(self) -> list[TargetBatch]:
        """A batch for each target that has texts."""
        texts: dict[TargetModel, list[Request]] = {}
        for request in self.running:
            texts.setdefault(request.pair.target, []).append(request)
        return [
            TargetBatch(each, self._paces.setdefault(target, Pace()), self._offline) for target, each in texts.items()
        ]

    def _tell(self, report: CallReport) -> None:
        for watch in self.watchers:
            try:
                watch(report)
            except Exception:  # a fault of those who watch ends no text
                logging.getLogger(__name__).exception("a watcher of the scheduler failed")

    def close(self) -> None:
        """End all texts as cancelled."""
        for request in (*self.waiting, *self.running):
            request.cancel()
        self._end_cancelled()

    def _admit(self) -> None:
        """Let texts begin while there is memory. Where texts outgrow it, the youngest waits and is computed again."""
        while len(self.running) > 1 and not self.memory.holds(self.running):
            youngest = self.running.pop()
            self.memory.end(youngest)
            self.waiting.appendleft(youngest)
        while self.waiting and len(self.running) < self.sequences:
            if self.running and not self.memory.holds([*self.running, self.waiting[0]]):
                break
            request = self.waiting.popleft()
            try:
                self.memory.begin(request, self.sequences)
                self.running.append(request)
                self.on_begin(request)
            except Exception as error:
                _fail([request], error)
                self.memory.end(request)

    def _end_cancelled(self) -> Steps:
        """End what was cancelled; it may release text that was held back for a stop string."""
        steps: Steps = []
        for request in (*self.waiting, *self.running):
            if request.cancelled:
                try:
                    text = request.finish("cancelled")
                    steps += [(request, Step([], 0, [text]))] if text else []
                except Exception as error:
                    request.fail(error)
        self._retire()
        return steps

    def _retire(self) -> None:
        for request in [request for request in self.running if request.finished]:
            self.memory.end(request)
            self.running.remove(request)
        for request in [request for request in self.waiting if request.finished]:
            self.waiting.remove(request)


def _fail(requests: Sequence[Request], error: Exception) -> None:
    for request in requests:
        if not request.finished:
            request.fail(error)
