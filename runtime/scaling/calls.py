"""A request on its way to a replica, and the answer's parts on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message


class ReplicaLostError(Exception):
    """The replica ended before its answer did."""


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request, read to its end."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]


Part = Head | bytes
"""Of an answer: its head, then pieces of its body."""


async def answer(app: ASGIApp, call: Call) -> AsyncIterator[Part]:
    """Run a call through an application. An iterator that is closed early tells it that the client has left."""
    parts: asyncio.Queue[Part | None] = asyncio.Queue()
    received, left = False, asyncio.Event()

    async def receive() -> Message:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": call.body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            parts.put_nowait(Head(message["status"], [*message["headers"]]))
        elif body := message.get("body"):
            parts.put_nowait(body)

    running = asyncio.ensure_future(app(_scope(call), receive, send))
    running.add_done_callback(lambda _: parts.put_nowait(None))
    try:
        while (part := await parts.get()) is not None:
            yield part
        running.result()
    finally:
        left.set()
        if not running.done():
            await asyncio.wait({running}, timeout=1)
            running.cancel()


def _scope(call: Call) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": call.method,
        "path": call.path,
        "raw_path": call.path.encode(),
        "root_path": "",
        "query_string": call.query,
        "headers": call.headers,
        "client": None,
        "server": None,
        "state": {},
    }
