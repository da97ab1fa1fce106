"""Answers as server-sent events: a part for each step, comments while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.serving.errors import ApiError, ClientGone, api_error
from runtime.serving.exchange import while_connected
from runtime.serving.texts import TextEvents

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No proxy keeps parts back."""
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
LAST_SECONDS = 1.0
"""How long a client that does not read keeps the last event waiting."""


class EventStream(Response):
    """Sends each answer that ``parts`` yields, a comment where it yields None, and ``[DONE]``; an error on the way is
    the last event. The texts behind it end with the connection, and at ``deadline`` in monotonic seconds.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        events: TextEvents,
        parts: AsyncGenerator[Struct | None, None],
        deadline: float | None,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._request, self._events, self._parts, self._deadline = request, events, parts, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole stream."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            last = await self._send_parts(send)
            async with asyncio.timeout(LAST_SECONDS):
                await send({"type": "http.response.body", "body": last, "more_body": False})
        except TimeoutError as cause:
            raise ClientGone from cause
        finally:
            self._events.close()

    async def _send_parts(self, send: Send) -> bytes:
        """Send all parts; returns the event behind them."""

        async def send_all() -> None:
            async with aclosing(self._parts):
                async for part in self._parts:
                    body = KEEP_ALIVE if part is None else event(part)
                    await send({"type": "http.response.body", "body": body, "more_body": True})

        try:
            await while_connected(self._request, send_all(), self._deadline)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:
            refusal = error if isinstance(error, ApiError) else api_error(error)
            return event(refusal.body)
        return DONE


def event(answer: Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(answer) + b"\n\n"
