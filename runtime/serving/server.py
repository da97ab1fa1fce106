"""The HTTP server's life: sockets, signals, draining."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from runtime.serving.protocol import TimedProtocol
from runtime.serving.state import ServerState
from s2d_trt.errors import OptionError

BACKLOG = 2048
CLOSING_SECONDS = 3
"""For answers that are on their way when the last text has ended."""


class Server(uvicorn.Server):
    """Serves until ``stop`` is called or a signal comes; then takes no more texts and lets those that are there end.

    A second ``stop`` or signal ends them. ``cut`` says whether texts were ended so, or by the end of
    ``drain_seconds``.
    """

    def __init__(self, app: ASGIApp, state: ServerState, drain_seconds: float, **tls: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http=functools.partial(TimedProtocol, head_seconds=state.limits.body_seconds),  # type: ignore[arg-type]
                loop="asyncio",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSING_SECONDS,
                **tls,
            )
        )
        self._state, self._drain_seconds = state, drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self.cut = False

    def stop(self) -> None:
        """Begin to drain; the second time, end all texts at once. Call it on the event loop."""
        if self._draining is None:
            self._state.drain()
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._cut()
            self.force_exit = self.should_exit = True

    async def _drain(self) -> None:
        if self._state.serves:
            texts = self._state.texts
            if not texts.idle.is_set():
                print(
                    f"draining: {texts.running} texts run and {texts.waiting} wait, for up to"
                    f" {self._drain_seconds:g} s; a second signal ends them now",
                    file=sys.stderr,
                    flush=True,
                )
            try:
                async with asyncio.timeout(self._drain_seconds):
                    await texts.idle.wait()
            except TimeoutError:
                self._cut()
                await texts.idle.wait()
        self.should_exit = True

    def _cut(self) -> None:
        if self._state.serves and not self._state.texts.idle.is_set():
            self.cut = True
            self._state.texts.cancel_all("the server ended before the text did; ask another one")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server, where it runs in the main thread."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        for each in signals:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OptionError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            # Others are told at once that the port is in use, not when the targets are loaded.
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as cause:
        raise OptionError(f"{host}:{port} cannot be had ({cause.strerror}); choose another --host or --port") from cause
    return sock


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket that its owner and group may use. One that a killed server left is replaced.

    Raises:
        OptionError: the path cannot be had, or a server listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(BACKLOG)
    except OSError as cause:
        sock.close()
        raise OptionError(f"{path} cannot be had ({cause.strerror}); choose another --unix-socket") from cause
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
