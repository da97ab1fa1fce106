"""A server in a thread, and a client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.observability.monitor import Monitor
from runtime.serving.app import create_app
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget
from runtime.serving.texts import ServedTexts

PROMPT = "the draft proposes and the target"


class InThread(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=1))
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        self.listens.set()


@dataclass
class LiveServer:
    """``monitor`` and ``scheduler`` are the server's own."""

    address: str
    monitor: Monitor
    scheduler: Scheduler
    state: ServerState
    key: str | None = None

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"Authorization": f"Bearer {key}"} if (key := key or self.key) else {}
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def complete(self, **fields: Any) -> dict[str, Any]:
        """A completion that must succeed."""
        asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "model": "target"}
        status, body = self.ask("POST", "/v1/completions", asked | fields)
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def metrics(self) -> str:
        """What Prometheus reads."""
        return self.ask("GET", "/metrics")[1].decode()


@contextlib.contextmanager
def live_server(
    targets: Sequence[ServedTarget], monitor: Monitor, key: str | None = None, sequences: int = 4, max_queue: int = 64
) -> Iterator[LiveServer]:
    """Serve ``targets`` on a free port."""
    scheduler = Scheduler(sequences)
    state = ServerState(observers=monitor.observers)
    app = create_app(state, monitor.routes(state), [key] if key else [], operations=monitor.operations)
    with TextService(scheduler) as service, socket.create_server(("127.0.0.1", 0)) as listening:
        monitor.begin(targets, scheduler, service)
        state.ready(targets, ServedTexts(service, sequences, max_queue, state.observer))
        server = InThread(app)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert server.listens.wait(30)
        host, port = listening.getsockname()[:2]
        try:
            yield LiveServer(f"{host}:{port}", monitor, scheduler, state, key)
        finally:
            server.should_exit = True
            thread.join()
