"""One HTTP request: its body within limits, and its answer unless the client leaves or time runs out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runtime.serving.errors import ApiError, ClientGone
from runtime.serving.fields import Body, read_body
from runtime.serving.generation import Generation

Result = TypeVar("Result")
LARGE_BODY = 2**16
"""Bytes from which a body is decoded in a thread."""
PATIENCE = 16
"""A body of up to so many times the limit is read to its end, and forgotten: a client that still sends would not see
why it is refused."""


@dataclass(slots=True)
class Exchange:
    """What is known of an HTTP request, for its answer and for the access log."""

    request_id: str
    arrived: float = field(default_factory=time.monotonic)
    status: int = 0
    model: str | None = None
    user: str | None = None
    generations: list[Generation] = field(default_factory=list)


def exchange_of(request: Request) -> Exchange:
    """Of a request that came through the gate."""
    exchange: Exchange = request.scope["exchange"]
    return exchange


async def body_of(request: Request, kind: type[Body], limit: int, seconds: float) -> Body:
    """The decoded body. Raises as ``bytes_of``, and ApiError where it is wrong."""
    data = await bytes_of(request, limit, seconds)
    return await asyncio.to_thread(read_body, data, kind) if len(data) > LARGE_BODY else read_body(data, kind)


async def bytes_of(request: Request, limit: int, seconds: float) -> bytes:
    """The body.

    Raises:
        ApiError: it is larger than ``limit`` bytes, or takes longer than ``seconds`` to come.
        ClientGone: it never came.
    """
    too_large = ApiError(413, f"the body is larger than {limit} bytes; shorten the prompt", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > PATIENCE * limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more and size <= PATIENCE * limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                parts.append(part)
                if size > limit:
                    parts.clear()
    except TimeoutError as cause:
        raise ApiError(
            408, f"the body did not come within {seconds:g} s; send it faster", code="body_timeout"
        ) from cause
    if size > limit:
        raise too_large
    return b"".join(parts)


async def while_connected(request: Request, work: Coroutine[Any, Any, Result], deadline: float | None) -> Result:
    """Run ``work`` until it is done; cancel it when the client leaves or at ``deadline``, in monotonic seconds.

    Raises:
        ClientGone, ApiError: it did not end.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        await asyncio.wait({working, leaving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientGone
        raise ApiError(
            503, "the request took longer than this server allows", code="timeout", headers={"Retry-After": "1"}
        )
    finally:
        for task in (working, leaving):
            task.cancel()
        # What the work holds is given back before anything else happens.
        await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.exception()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def json_response(answer: Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``answer`` as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, media_type="application/json")
