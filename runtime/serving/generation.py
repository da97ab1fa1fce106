"""One text of an answer, and when what happened to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.decoding.request import Request


@dataclass(slots=True, eq=False)
class Generation:
    """One text of an answer: choice ``choice`` of the HTTP request ``request_id`` to the target named ``target``.

    Times are ``time.monotonic()`` seconds; None where that has not happened. ``arrived`` is when the HTTP request came,
    before its body was read; ``first_token`` and ``last_token`` are when a step with tokens was handed over.
    """

    request: Request
    target: str
    request_id: str
    choice: int = 0
    arrived: float = field(default_factory=time.monotonic)
    queued: float | None = None
    started: float | None = None
    """When the text left the queue."""
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    refusal: Exception | None = None
    """Why the server cancelled the text: what its client is told."""
