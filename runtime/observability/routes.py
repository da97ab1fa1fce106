"""The routes that show the server: /metrics, the live page, and /admin/policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from runtime.observability.live import LivePart, live_text
from runtime.observability.page import HEADERS, page
from runtime.observability.policy import Policies, PolicyBody, get_policy, put_policy
from runtime.serving.fields import CompletionBody
from runtime.serving.openapi import Operation
from runtime.serving.state import ServerState

_ERRORS = (400, 401, 404, 405, 408, 413, 429, 500, 503)
OPERATIONS = (
    Operation("/", "The live page", None, (405, 429), media_type="text/html"),
    Operation("/metrics", "Prometheus metrics", None, (405, 429, 500), media_type="text/plain"),
    Operation(
        "/live/text", "Stream a text with its drafts marked", None, (*_ERRORS, 422), CompletionBody, streams=LivePart
    ),
)
ADMIN_OPERATIONS = (
    Operation("/admin/policy", "How each target drafts", Policies, (401, 405, 429, 503)),
    Operation("/admin/policy", "Change how targets draft", Policies, _ERRORS, PolicyBody, method="put"),
)


def observability_routes(state: ServerState, source: Collector, admin: bool = False) -> list[BaseRoute]:
    """/metrics shows ``source``; with ``admin``, /admin/policy is there."""
    html = page()

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await run_in_threadpool(encode, source), headers={"Content-Type": content_type})

    async def show(request: Request) -> Response:
        return HTMLResponse(html, headers=HEADERS)

    def with_state(
        handler: Callable[[Request, ServerState], Awaitable[Response]],
    ) -> Callable[..., Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await handler(request, state)

        return endpoint

    routes: list[BaseRoute] = [
        Route("/", show, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/live/text", with_state(live_text), methods=["POST"]),
    ]
    if admin:
        routes.append(Route("/admin/policy", with_state(get_policy), methods=["GET"]))
        routes.append(Route("/admin/policy", with_state(put_policy), methods=["PUT"]))
    return routes
