"""An asynchronous client that reads streams and can leave in the middle."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Reply:
    """What came back. ``events`` holds the data of a stream's events, ``times`` the seconds at which each came;
    ``left`` says that the client left before.
    """

    status: int = 0
    body: bytes = b""
    events: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    left: bool = False

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The text of choice 0, as far as it came."""
        answers = self.events if self.events else [self.json] if self.body else []
        return "".join(answer["choices"][0]["text"] for answer in answers if answer.get("choices"))

    @property
    def final(self) -> Any:
        """The answer, or the last event of a stream."""
        return self.events[-1] if self.events else self.json


async def post(
    address: tuple[str, int], path: str, body: bytes, leave_after: int | None = None, send: int | None = None
) -> Reply:
    """Send ``body`` and read the answer.

    The client leaves after ``leave_after`` events of a stream (0: before the head of the answer), or after it sent
    ``send`` bytes of the body.
    """
    reply = Reply()
    reader, writer = await asyncio.open_connection(*address)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:send])
        await writer.drain()
        if send is not None or leave_after == 0:
            reply.left = True
            return reply
        reply.status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        chunks = _chunks(reader) if b"chunked" in headers.get(b"transfer-encoding", b"") else None
        if chunks is None:
            reply.body = await reader.read()
            return reply
        async for chunk in chunks:
            for line in chunk.splitlines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    reply.events.append(json.loads(line[6:]))
                    reply.times.append(time.perf_counter())
            if leave_after is not None and len(reply.events) >= leave_after:
                reply.left = True
                return reply
        return reply
    finally:
        writer.close()


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while size := int(await reader.readline() or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readline()
