"""The server on Ray Serve: an ingress in front of replicas, each of which is one draft with all its targets.

``build`` makes the application that ``serve run`` takes; ``python -m runtime.scaling`` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import Response

from runtime.scaling.announcement import announce
from runtime.scaling.calls import Call, Part, ReplicaLostError, answer
from runtime.scaling.ingress import Ingress
from runtime.scaling.settings import Settings
from runtime.serve import MIB, Serving, arguments_of
from runtime.serving.errors import ApiError
from runtime.serving.state import Limits

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
MOST_CALLS = 1024
"""That one ingress answers at a time."""


class Replica:
    """The HTTP application of ``runtime.serve``."""

    def __init__(self, arguments: Sequence[str], metrics_folder: str | None = None) -> None:
        self._serving = Serving(arguments_of([*arguments, "--port", "0"]))
        replica = serve.get_replica_context().replica_tag
        self._serving.begin(self._serving.load(), f"Ray replica {replica}")
        if metrics_folder is not None:
            self._listening = asyncio.ensure_future(self._show_metrics(Path(metrics_folder), replica))

    async def __call__(self, call: Call) -> AsyncGenerator[Part, None]:
        """An answer, part by part."""
        async for part in answer(self._serving.app, call):
            yield part

    def __del__(self) -> None:
        self._serving.close()

    async def _show_metrics(self, folder: Path, replica: str) -> None:
        """Listen on a port of its own too."""
        sock, address = self._serving.listen()
        announce(folder, replica, address.partition("://")[2])
        await self._serving.server.serve([sock])


class Entry:
    """The ingress; its calls go to the replica of their session."""

    def __init__(self, replicas: Any, max_body: int) -> None:
        self._replicas = replicas.options(stream=True)
        self._ingress = Ingress(self._call, Limits(max_body=max_body))

    async def __call__(self, request: Request) -> Response:
        """The answer to an HTTP request."""
        return await self._ingress.answer(request)

    async def _call(self, session: str, call: Call) -> AsyncGenerator[Part, None]:
        parts = self._replicas.options(session_id=session).remote(call)
        try:
            async for part in parts:
                yield part
        except (GeneratorExit, asyncio.CancelledError):  # the client has left
            parts.cancel()
            raise
        except BackPressureError as cause:
            message = "too many requests wait; ask again later"
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"}) from cause
        except (RayActorError, RayServeException) as cause:
            raise ReplicaLostError from cause


def build(given: Mapping[str, Any] | Settings) -> Application:
    """The application of ``serve run runtime.scaling.application:build``; ``given`` has ``Settings``' fields.

    Raises OptionError.
    """
    settings = given if isinstance(given, Settings) else Settings.of(given)
    options = arguments_of(settings.serve)  # a mistake is told here, not by each replica
    replica = serve.deployment(
        Replica,
        name="replica",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus},
        max_ongoing_requests=options.sequences + options.max_queue,
        max_queued_requests=settings.max_queued,
        graceful_shutdown_timeout_s=options.drain_seconds,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    ).bind(settings.serve, settings.metrics)
    entry = serve.deployment(
        Entry,
        name="ingress",
        num_replicas=settings.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_CALLS,
        graceful_shutdown_timeout_s=options.drain_seconds,
    )
    return entry.bind(replica, options.max_body * MIB)
