"""The server on Ray Serve: an ingress in front of replicas, each of which is one draft with all its targets.

``build`` makes the application that ``serve run`` takes; ``python -m runtime.scaling`` runs it.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.scaling.calls import Call, Head, Part, ReplicaLostError, answer
from runtime.scaling.ingress import Ingress
from runtime.serve import Serving, arguments_of

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class Replica:
    """The HTTP application of ``runtime.serve``, without its sockets."""

    def __init__(self, arguments: list[str], metrics_folder: str | None = None) -> None:
        serving = Serving(arguments_of([*arguments, "--port", "0"]))
        self._app = serving.app
        replica = serve.get_replica_context().replica_tag
        serving.begin(serving.load(), f"ray replica {replica}")
        self._serving = serving
        if metrics_folder is not None:
            self._listening = asyncio.ensure_future(self._show_metrics(Path(metrics_folder), replica))

    async def __call__(self, call: Call) -> AsyncGenerator[Part, None]:
        """An answer, part by part."""
        async for part in answer(self._app, call):
            yield part

    def __del__(self) -> None:
        self._serving.close()

    async def _show_metrics(self, folder: Path, replica: str) -> None:
        """Listen on a port of its own too, and tell Prometheus of it (file_sd_configs)."""
        sock, address = self._serving.listen()
        folder.mkdir(parents=True, exist_ok=True)
        target = [{"targets": [address.removeprefix("http://")], "labels": {"replica": replica}}]
        (folder / f"{replica}.json").write_text(json.dumps(target), encoding="utf-8")
        await self._serving.server.serve([sock])


class Entry:
    """The ingress; its requests go to the replica of their session."""

    def __init__(self, replicas: Any) -> None:
        self._replicas = replicas.options(stream=True)
        self._ingress = Ingress(self._call)

    async def __call__(self, request: Request) -> Response:
        """The answer to an HTTP request."""
        try:
            return await self._ingress.answer(request)
        except BackPressureError:
            error = {"message": "too many requests wait; ask again later", "type": "rate_limit_error"}
            return JSONResponse({"error": {**error, "param": None, "code": "queue_full"}}, 429, {"Retry-After": "1"})

    async def _call(self, session: str, call: Call) -> AsyncGenerator[Part, None]:
        try:
            async for part in self._replicas.options(session_id=session).remote(call):
                if isinstance(part, (Head, bytes)):
                    yield part
        except BackPressureError:
            raise
        except (RayActorError, RayServeException) as cause:
            raise ReplicaLostError from cause


def build(settings: dict[str, Any]) -> Application:
    """The application of ``serve run runtime.scaling.application:build``.

    ``settings``: ``serve``, the options of ``python -m runtime.serve`` as one text or a list; ``replicas`` (2);
    ``ingresses`` (1); ``cpus`` that Ray counts for a replica (1); ``max_ongoing`` requests of a replica (72) and
    ``max_queued`` ones that wait for one (256); ``metrics``, a folder in which replicas tell Prometheus of themselves.
    """
    given = settings["serve"]
    arguments = shlex.split(given) if isinstance(given, str) else list(given)
    arguments_of(arguments)  # a mistake is told here, not by each replica
    replica = serve.deployment(
        Replica,
        name="replica",
        num_replicas=int(settings.get("replicas", 2)),
        ray_actor_options={"num_cpus": float(settings.get("cpus", 1))},
        max_ongoing_requests=int(settings.get("max_ongoing", 72)),
        max_queued_requests=int(settings.get("max_queued", 256)),
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    ).bind(arguments, settings.get("metrics"))
    entry = serve.deployment(
        Entry,
        name="ingress",
        num_replicas=int(settings.get("ingresses", 1)),
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1024,
    )
    return entry.bind(replica)
