"""In front of the replicas: draws seeds, keeps sessions together, and goes on where a replica was lost."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from runtime.scaling.calls import Call, Head, Part, ReplicaLostError
from runtime.scaling.resuming import DifferentTextError, Events

GENERATING = ("/v1/completions", "/v1/chat/completions")
SESSION_HEADER = "x-session-id"
SESSION_CHARACTERS = 256
"""Of a prompt: texts that begin alike go to one replica, whose prefix cache may hold the beginning."""
ATTEMPTS = 4
_OWN_HEADERS = (b"content-length", b"transfer-encoding", b"connection", b"host")

Caller = Callable[[str, Call], AsyncGenerator[Part, None]]
"""Sends a call to the replica of a session; raises ReplicaLostError where that ends."""


class Ingress:
    """Answers HTTP requests by ``caller``."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def answer(self, request: Request) -> Response:
        """The answer of a replica; of another one where the first is lost."""
        headers = [(name, value) for name, value in request.headers.raw if name not in _OWN_HEADERS]
        call = Call(request.method, request.url.path, request.scope["query_string"], headers, await request.body())
        body = _object(call.body) if call.method == "POST" and call.path in GENERATING else None
        if body is not None:
            # The one thing in which two replicas' texts could differ.
            body["seed"] = secrets.randbits(32) if body.get("seed") is None else body["seed"]
            call = replace(call, body=json.dumps(body).encode())
        session = request.headers.get(SESSION_HEADER) or _session_of(body)
        repeats = body is not None or call.method == "GET"
        for attempt in range(ATTEMPTS if repeats else 1):
            try:
                # A lost replica's sessions go where the ring says; until the ring knows, the attempt leads elsewhere.
                parts = self._caller(session if attempt == 0 else f"{session}#{attempt}", call)
                head = await _head_of(parts)
                if body is None or not body.get("stream") or head.status != 200:
                    return _response(head, b"".join([part async for part in parts if isinstance(part, bytes)]))
                return _streaming(head, self._stream(session, call, parts))
            except ReplicaLostError:
                continue
        return JSONResponse(_error("no replica answered; ask again later"), 503, {"Retry-After": "1"})

    async def _stream(self, session: str, call: Call, parts: AsyncGenerator[Part, None]) -> AsyncIterator[bytes]:
        events = Events()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with aclosing(parts):
                    async for event in _events(parts):
                        if (kept := events.take(event)) is not None:
                            yield kept + b"\n\n"
                return
            except ReplicaLostError:
                events.restart()
                parts = self._caller(f"{session}#{attempt}", call)
            except DifferentTextError as error:
                yield _last_event(f"the replica was lost and {error}; ask again")
                return
        yield _last_event("the replica was lost and no other one answered; ask again later")


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


def _session_of(body: dict[str, Any] | None) -> str:
    if body is None:
        return secrets.token_hex(8)
    if isinstance(user := body.get("user"), str) and user:
        return user
    prompt = json.dumps(body.get("messages", body.get("prompt")))[:SESSION_CHARACTERS]
    return hashlib.sha256(f"{body.get('model')}\n{prompt}".encode()).hexdigest()


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


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": "replica_lost"}}


def _last_event(message: str) -> bytes:
    return b"data: " + json.dumps(_error(message)).encode() + b"\n\n"
