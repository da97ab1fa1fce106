"""A real server on loopback, in a thread of the test's process; targets that a test can hold; plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute

from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.request import Step
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.serving.access_log import AccessLog
from runtime.serving.app import create_app
from runtime.serving.generation import Generation
from runtime.serving.observer import Observer
from runtime.serving.server import Server, listen
from runtime.serving.state import Limits, ServerState
from runtime.serving.targets import ServedTarget
from runtime.serving.texts import ServedTexts

LONG_WAIT = 60.0
"""Seconds after which a test has failed."""


@dataclass
class Recorder(Observer):
    """Remembers what it was told."""

    events: list[tuple[str, Any]] = field(default_factory=list)
    finished_texts: list[Generation] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def received(self, target: str) -> None:
        """Note it."""
        self._note("received", target)

    def refused(self, target: str | None, status: int) -> None:
        """Note it."""
        self._note("refused", (target, status))

    def queued(self, generation: Generation) -> None:
        """Note it."""
        self._note("queued", generation)

    def started(self, generation: Generation) -> None:
        """Note it."""
        self._note("started", generation)

    def stepped(self, generation: Generation, step: Step) -> None:
        """Note it."""
        self._note("stepped", generation)

    def finished(self, generation: Generation) -> None:
        """Note it, and keep the text."""
        self.finished_texts.append(generation)
        self._note("finished", generation)

    def count(self, kind: str) -> int:
        """Events of a kind."""
        return sum(each == kind for each, _ in self.events)

    def wait_for(self, kind: str, count: int) -> None:
        """Until so many events of a kind have come in all."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.count(kind) >= count, LONG_WAIT), f"{kind}: {self.count(kind)}"

    def _note(self, kind: str, what: Any) -> None:
        with self.changed:
            self.events.append((kind, what))
            self.changed.notify_all()


class RunningServer:
    """Serves decoders under the names of their targets, on a free port."""

    def __init__(
        self,
        decoders: Sequence[Decoder],
        sequences: int = 4,
        max_queue: int = 64,
        limits: Limits | None = None,
        drain_seconds: float = LONG_WAIT,
        observers: Sequence[Observer] = (),
        memory: CacheMemory | None = None,
        load: bool = True,
        routes: Sequence[BaseRoute] = (),
        log_path: str | None = None,
        **options: Any,
    ) -> None:
        self.decoders, self.sequences, self.max_queue, self.memory = decoders, sequences, max_queue, memory
        self.recorder = Recorder()
        self.state = ServerState(limits, [self.recorder, *observers])
        self.log = AccessLog(log_path) if log_path else None
        app = create_app(self.state, routes=routes, access_log=self.log, **options)
        self.server = Server(app, self.state, drain_seconds)
        self.socket = listen("127.0.0.1", 0)
        self.address: tuple[str, int] = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.service: TextService | None = None
        self.loop = asyncio.new_event_loop()
        self._load = load
        self._begun = threading.Event()
        self.thread = threading.Thread(target=self._run, name="test server")

    def __enter__(self) -> RunningServer:
        self.thread.start()
        assert self._begun.wait(LONG_WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        if self.thread.is_alive():
            self.stop()
            self.stop()
        self.thread.join(LONG_WAIT)
        assert not self.thread.is_alive()
        if self.service is not None:
            self.service.close()
        if self.log is not None:
            self.log.close()

    def load(self) -> None:
        """Take requests, in a server that was not told to at its start."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (self._make_ready(), done.set()))
        assert done.wait(LONG_WAIT)

    def stop(self) -> None:
        """As a signal does."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self.server.stop)

    def client(self, **options: Any) -> httpx.Client:
        """A client of this server."""
        return httpx.Client(base_url=self.url, timeout=LONG_WAIT, trust_env=False, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """The answer to one request."""
        with self.client() as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return client.post(path, content=content, **options)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, LONG_WAIT)

    def send(self, path: str, body: Any, extra: str = "") -> socket.socket:
        """A connection on which a request was sent; its answer is not read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
        connection = self.connect()
        connection.sendall(head.encode() + data)
        return connection

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def _serve(self) -> None:
        if self._load:
            self._make_ready()
        self._begun.set()
        await self.server.serve([self.socket])

    def _make_ready(self) -> None:
        self.service = TextService(Scheduler(self.sequences, self.memory))
        texts = ServedTexts(self.service, self.sequences, self.max_queue, self.state.observer)
        self.state.ready([ServedTarget(each.target.name, each) for each in self.decoders], texts)


class Held:
    """Holds a target's calls until it is released, so that a test can look at a text in the middle."""

    def __init__(self) -> None:
        self._free, self.reached = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Until a call is held."""
        assert self.reached.wait(LONG_WAIT)

    def release(self) -> None:
        """Let all calls run from now on."""
        self._free.set()

    def pass_on(self, run: Callable[[Any], Any], parts: Any) -> Any:
        """Run a call when it may."""
        self.reached.set()
        assert self._free.wait(LONG_WAIT)
        return run(parts)


@contextlib.contextmanager
def held(decoder: Decoder) -> Iterator[Held]:
    """The target's calls wait from the next one on; they run at the end of the block at the latest."""
    holding, run = Held(), decoder.target.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.target, "run", lambda parts: holding.pass_on(run, parts))
        try:
            yield holding
        finally:
            holding.release()


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def events_of(text: str) -> list[Any]:
    """The data of server-sent events; ``[DONE]`` as it is."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]
