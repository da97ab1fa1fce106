"""The application: its routes, and what every request passes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from runtime.serving.access_log import AccessLog
from runtime.serving.answers import Health, Model, ModelList
from runtime.serving.chat import chat
from runtime.serving.completions import complete
from runtime.serving.exchange import json_response
from runtime.serving.gate import Gate
from runtime.serving.openapi import Operation, document
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget
from runtime.serving.tokens import detokenize, tokenize

Handler = Callable[[Request, ServerState], Awaitable[Response]]


def create_app(
    state: ServerState,
    routes: Sequence[BaseRoute] = (),
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    access_log: AccessLog | None = None,
    operations: Sequence[Operation] = (),
) -> ASGIApp:
    """The whole application.

    ``routes`` come beside the usual ones, and ``operations`` describe them in /openapi.json. With ``keys``, requests
    must have one of them, except for the paths that are open. Pages from ``origins`` may ask from a browser.
    """

    async def openapi(request: Request) -> Response:
        described = document(operations, bool(keys), [*state.targets])
        return Response(msgspec.json.encode(described), media_type="application/json")

    def route(path: str, handler: Handler, method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return await handler(request, state)

        return Route(path, endpoint, methods=[method])

    router = Router(
        [
            route("/v1/completions", complete, "POST"),
            route("/v1/chat/completions", chat, "POST"),
            route("/tokenize", tokenize, "POST"),
            route("/detokenize", detokenize, "POST"),
            route("/v1/models", models, "GET"),
            route("/v1/models/{model:path}", model, "GET"),
            route("/health", health, "GET"),
            Route("/openapi.json", openapi, methods=["GET"]),
            *routes,
        ],
        redirect_slashes=False,
    )
    app: ASGIApp = Gate(router, state, keys, access_log)
    if origins:
        expose = ["x-request-id", "retry-after"]
        app = CORSMiddleware(
            app, origins, allow_methods=["GET", "POST", "PUT"], allow_headers=["*"], expose_headers=expose
        )
    return app


async def health(request: Request, state: ServerState) -> Response:
    """200 when the server takes requests, else 503."""
    return json_response(Health(state.phase), 200 if state.phase == "ready" else 503)


async def models(request: Request, state: ServerState) -> Response:
    """All targets."""
    state.texts  # noqa: B018  raises while loading
    return json_response(ModelList("list", [_model(target) for target in state.targets.values()]))


async def model(request: Request, state: ServerState) -> Response:
    """One target."""
    return json_response(_model(state.target(request.path_params["model"])))


_STARTED = int(time.time())


def _model(served: ServedTarget) -> Model:
    target, draft = served.decoder.target, served.decoder.draft
    name, exits = (draft.name, list(draft.exits)) if draft else (None, [])
    return Model(served.name, "model", _STARTED, "s2d-trt", target.max_length, name, exits)
