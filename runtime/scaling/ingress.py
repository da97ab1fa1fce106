"""In front of the replicas: draws seeds, keeps sessions together, and goes on where a replica was lost."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runtime.scaling.calls import Call, Head, Part, ReplicaLostError
from runtime.scaling.resuming import DifferentTextError, Events
from runtime.serving.errors import CLIENT_GONE, ApiError, ClientGone, unavailable
from runtime.serving.exchange import bytes_of, json_response
from runtime.serving.state import Limits

GENERATING = ("/v1/completions", "/v1/chat/completions")
CHANGING = "/admin/"
"""Paths whose calls are not repeated."""
SESSION_HEADER = b"x-session-id"
SESSION_CHARACTERS = 256
"""Of a prompt: texts that begin alike go to one replica, whose prefix cache may hold the beginning."""
ATTEMPTS = 4
_OWN_HEADERS = (b"content-length", b"transfer-encoding", b"connection", b"host")

Caller = Callable[[str, Call], AsyncGenerator[Part, None]]
"""Sends a call to the replica of a session.

Raises:
    ReplicaLostError: the replica ended before its answer did.
    ApiError: too many calls wait for a replica.
"""


class Ingress:
    """Answers HTTP requests by ``caller``."""

    def __init__(self, caller: Caller, limits: Limits | None = None) -> None:
        self._caller, self._limits = caller, limits or Limits()

    async def answer(self, request: Request) -> Response:
        """The answer of a replica; of another one where the first is lost."""
        try:
            return await self._answer(await self._read(request))
        except ApiError as error:
            return json_response(error.body, error.status, error.headers)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)

    async def _read(self, request: Request) -> Call:
        body = await bytes_of(request, self._limits.max_body, self._limits.body_seconds)
        headers = [(name, value) for name, value in request.headers.raw if name not in _OWN_HEADERS]
        return Call(request.method, request.url.path, request.scope["query_string"], headers, body)

    async def _answer(self, call: Call) -> Response:
        body = _object(call.body) if call.method == "POST" and call.path in GENERATING else None
        if body is not None:
            # The one thing in which two replicas' texts could differ.
            body["seed"] = secrets.randbits(32) if body.get("seed") is None else body["seed"]
            call = replace(call, body=json.dumps(body).encode())
        session = _session_of(call, body)
        for attempt in range(1 if call.path.startswith(CHANGING) else ATTEMPTS):
            try:
                parts = self._caller(_name(session, attempt), call)
                head = await _head_of(parts)
                if body is None or not body.get("stream") or head.status != 200:
                    return _response(head, b"".join([part async for part in parts if isinstance(part, bytes)]))
                return _streaming(head, self._stream(session, call, parts))
            except ReplicaLostError:
                continue
        raise _lost("no replica answered")

    async def _stream(self, session: str, call: Call, parts: AsyncGenerator[Part, None]) -> AsyncIterator[bytes]:
        events = Events()
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    async with aclosing(parts):
                        async for event in _events(parts):
                            if (kept := events.take(event)) is not None:
                                yield kept + b"\n\n"
                    return
                except ReplicaLostError:
                    events.restart()
                    parts = self._caller(_name(session, attempt), call)
            raise _lost("the replica was lost and no other one answered")
        except DifferentTextError as cause:
            yield _last_event(_lost(f"the replica was lost and {cause}"))
        except ApiError as error:
            yield _last_event(error)


async def _head_of(parts: AsyncIterator[Part]) -> Head:
    async for part in parts:
        if isinstance(part, Head):
            return part
    raise ReplicaLostError


async def _events(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    """Server-sent events, without the empty lines between them."""
    rest = b""
    async for part in parts:
        if isinstance(part, Head):
            if part.status != 200:  # as a replica without room answers
                raise ReplicaLostError
            continue
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            yield event


def _object(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None: then a replica says what is wrong."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _session_of(call: Call, body: dict[str, Any] | None) -> str:
    if given := dict(call.headers).get(SESSION_HEADER):
        return given.decode("latin-1")
    if body is None:
        return secrets.token_hex(8)
    if isinstance(user := body.get("user"), str) and user:
        return user
    prompt = json.dumps(body.get("messages", body.get("prompt")))[:SESSION_CHARACTERS]
    return hashlib.sha256(f"{body.get('model')}\n{prompt}".encode()).hexdigest()


def _name(session: str, attempt: int) -> str:
    """A lost replica's sessions go where the ring says; until the ring knows, the attempt leads elsewhere."""
    return f"{session}#{attempt}" if attempt else session


def _response(head: Head, body: bytes) -> Response:
    response = Response(body, head.status)
    response.raw_headers += _headers(head)
    return response


def _streaming(head: Head, events: AsyncIterator[bytes]) -> Response:
    response = StreamingResponse(events, head.status)
    response.raw_headers += _headers(head)
    return response


def _headers(head: Head) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in head.headers if name not in _OWN_HEADERS]


def _lost(message: str) -> ApiError:
    return unavailable(f"{message}; ask again later", "replica_lost")


def _last_event(error: ApiError) -> bytes:
    return b"data: " + msgspec.json.encode(error.body) + b"\n\n"
