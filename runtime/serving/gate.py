"""What every request passes: its id, the key, the number of requests at a time, errors, and the access log."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.serving.access_log import AccessLog, entry_of
from runtime.serving.errors import CLIENT_GONE, ApiError, ClientGone, api_error
from runtime.serving.exchange import Exchange, json_response
from runtime.serving.state import ServerState

OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/openapi.json"})
"""They need no key: monitoring reads them, and they hold nothing of a text."""
_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


class Gate:
    """Wraps the routes. Every answer has the header ``x-request-id``: the client's own where it sent one."""

    def __init__(self, app: ASGIApp, state: ServerState, keys: Sequence[str], log: AccessLog | None) -> None:
        self._app, self._state, self._log = app, state, log
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        exchange = Exchange(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12))
        scope["exchange"] = exchange
        scope["app"] = self._app  # so that the router raises where there is no such path or method

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = exchange.request_id
            await send(message)

        works = scope["method"] == "POST"
        self._state.active += works
        try:
            self._check(scope)
            await self._app(scope, receive, send_and_note)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except Exception as error:
            await self._refuse(scope, receive, send_and_note, api_error(error))
        finally:
            self._state.active -= works
            if self._log is not None:
                self._log.write(entry_of(scope, exchange))

    def _check(self, scope: Scope) -> None:
        if self._keys and scope["path"] not in OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            known = [hmac.compare_digest(key.strip().encode("latin-1"), each) for each in self._keys]
            if scheme.lower() != "bearer" or not any(known):
                raise ApiError(
                    401,
                    "the key is missing or wrong; send 'Authorization: Bearer KEY'",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if self._state.active > self._state.limits.max_concurrent:
            raise ApiError(
                429,
                "too many requests at a time; ask again later",
                code="too_many_requests",
                headers={"Retry-After": "1"},
            )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: ApiError) -> None:
        exchange: Exchange = scope["exchange"]
        if exchange.status:  # the answer has begun: the connection ends without the rest of it
            raise error
        if scope["method"] == "POST":
            self._state.observer.refused(exchange.model, error.status)
        await json_response(error.body, error.status, error.headers)(scope, receive, send)
