"""The access log: one JSON object a line for each request, written by a thread of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from queue import Full, Queue
from typing import Any, TextIO

import msgspec
from starlette.types import Scope

from runtime.serving.exchange import Exchange
from s2d_trt.errors import OptionError

MOST_WAITING = 10_000
"""Lines; where the reader of the log is slower for so long, lines are dropped and counted."""


class AccessLog:
    """Writes lines to a file, or to standard output where ``path`` is ``-``. Never blocks the event loop."""

    def __init__(self, path: str) -> None:
        try:
            # Whole lines at a time, appended: several servers may share a file.
            self._file: TextIO = sys.stdout if path == "-" else Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115  open until the end
        except OSError as cause:
            raise OptionError(f"{path} cannot be written ({cause.strerror}); name another --access-log") from cause
        self._lines: Queue[bytes | None] = Queue(MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="s2d-trt access log", daemon=True)
        self._thread.start()

    def write(self, entry: dict[str, Any]) -> None:
        """Let a line be written."""
        if self._dropped:
            entry = {**entry, "lines_dropped_before": self._dropped}
        try:
            self._lines.put_nowait(msgspec.json.encode(entry))
            self._dropped = 0
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        with contextlib.suppress(Full):
            self._lines.put(None, timeout=1.0)
        self._thread.join(1.0)
        if self._file is not sys.stdout and not self._thread.is_alive():
            self._file.close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(line.decode() + "\n")
                self._file.flush()
            except (OSError, ValueError):  # the disk is full, or nobody reads any more
                self._dropped += 1


def entry_of(scope: Scope, exchange: Exchange) -> dict[str, Any]:
    """What is written of a request. Times are in seconds; prompts and texts are not written."""
    ended, texts = time.monotonic(), exchange.generations
    entry: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": exchange.request_id,
        "client": (scope.get("client") or [None])[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": exchange.status,
        "seconds": round(ended - exchange.arrived, 6),
    }
    if exchange.model is not None:
        entry |= {"model": exchange.model, "user": exchange.user}
    if texts:
        first = [text.first_token - exchange.arrived for text in texts if text.first_token is not None]
        queues = [text.started - text.queued for text in texts if text.started is not None and text.queued is not None]
        entry |= {
            "prompt_tokens": [len(text.request.prompt) for text in texts],
            "completion_tokens": [len(text.request.tokens) for text in texts],
            # A text whose client has gone ends with the next step.
            "finish_reasons": [text.request.finish_reason or "cancelled" for text in texts],
            "first_token_seconds": round(min(first), 6) if first else None,
            "queue_seconds": round(max(queues), 6) if queues else None,
            "draft_tokens": sum(sum(text.request.stats.drafted) for text in texts),
            "accepted_tokens": sum(sum(text.request.stats.accept_lengths) - text.request.stats.steps for text in texts),
        }
    return entry
