"""Texts that a host runs: their steps go to C's queues, and cancellations come from there."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from runtime.decoding.batch import Steps
from runtime.decoding.memory import CacheMemory
from runtime.decoding.request import Request, Step
from runtime.decoding.scheduler import Scheduler
from runtime.embedding.errors import error_line
from runtime.embedding.native import Native
from runtime.sampling.logprobs import TokenLogprob

_FINISH = {
    "stop": "S2D_FINISH_STOP",
    "length": "S2D_FINISH_LENGTH",
    "capacity": "S2D_FINISH_CAPACITY",
    "cancelled": "S2D_FINISH_CANCELLED",
    "error": "S2D_FINISH_ERROR",
}
_COSTS = ("steps", "preparation", "total", "prefill", "draft", "verify")


class HostScheduler(Scheduler):
    """A scheduler whose texts are cancelled by a flag in C, which the host sets without Python."""

    def __init__(self, native: Native, sequences: int, memory: CacheMemory) -> None:
        super().__init__(sequences, memory)
        self._native = native
        self.texts: set[HostText] = set()
        """All that have not ended."""

    def step(self) -> Steps:
        """As the base class's, after the host's cancellations."""
        if self._native.lib.host_take_cancels():
            for text in list(self.texts):  # a copy: other threads add texts
                text.look()
        return super().step()


class HostText:
    """Hands one text's steps to C, in the service's thread. ``handle`` is the C request; it must not be used after the
    last step.
    """

    def __init__(self, native: Native, handle: Any, request: Request, scheduler: HostScheduler) -> None:
        self._native, self._handle, self._request, self._scheduler = native, handle, request, scheduler
        self._stats = native.ffi.new("s2d_stats *")
        self._stats.size = native.ffi.sizeof("s2d_stats")
        self._stats.seed, self._stats.prompt_tokens = request.seed, len(request.prompt)
        scheduler.texts.add(self)

    def look(self) -> None:
        """Cancel the text if the host has done so."""
        if self._native.lib.host_cancelled(self._handle):
            self._request.cancel()

    def began(self) -> None:
        """The text has left the queue."""

    def put(self, step: Step | None) -> None:
        """The next step, or None after the last one."""
        if step is None:
            self._end()
            return
        self._stats.accepted_tokens += step.drafted
        self._update()
        # `kept` owns the arrays while C copies them.
        c_step, kept = self._c_step(step)
        if not self._native.lib.host_put(self._handle, c_step, self._stats):
            self._request.fail(MemoryError("no memory for a step"))
        del kept

    def _c_step(self, step: Step) -> tuple[Any, list[Any]]:
        native, tokens = self._native, len(step.tokens)
        pieces = [piece.encode(errors="replace") for piece in step.pieces]
        text = b"".join(pieces)
        ends = list(accumulate(map(len, pieces)))[:tokens]
        ends += [ends[-1] if ends else 0] * (tokens - len(ends))
        made = native.ffi.new("s2d_step *")
        kept = [
            native.array("int32_t", step.tokens),
            native.array("unsigned char", [1] * step.drafted + [0] * (tokens - step.drafted)),
            native.ffi.from_buffer(text),
            native.array("size_t", ends),
        ]
        made.tokens, made.drafted, made.text, made.text_ends = kept
        made.token_count, made.text_length = tokens, len(text)
        if step.logprobs is not None:
            kept += self._add_logprobs(made, step.logprobs)
        return made, kept

    def _add_logprobs(self, made: Any, logprobs: list[TokenLogprob]) -> list[Any]:
        asked = self._request.options.logprobs or 0
        tops = [(entry.top + [(-1, 0.0)] * asked)[:asked] for entry in logprobs]
        kept = [
            self._native.array("double", [entry.logprob for entry in logprobs]),
            self._native.array("int32_t", [token for top in tops for token, _ in top]),
            self._native.array("double", [logprob for top in tops for _, logprob in top]),
        ]
        made.logprobs, made.top_tokens, made.top_logprobs = kept
        made.top_count = asked
        return kept

    def _update(self) -> None:
        stats = self._stats
        stats.exact, stats.new_tokens = self._request.exact, len(self._request.tokens)
        for name in _COSTS:
            setattr(stats, name, getattr(self._request.stats, name))

    def _end(self) -> None:
        native, error = self._native, self._request.error
        self._scheduler.texts.discard(self)
        self._update()
        self._stats.finish = getattr(native.lib, _FINISH[self._request.finish_reason or "error"])
        status = native.lib.S2D_END if error is None else native.status(error)
        line = b"" if error is None else error_line(error).encode(errors="replace")
        native.lib.host_end(self._handle, status, line, self._stats)
