"""Real monitoring programs for tests: free ports, queries, and waiting with a deadline."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from tests.runtime.observability.live_server import LiveServer

Found = TypeVar("Found")


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test where a program is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (packages of Debian)")


def free_address() -> str:
    """A loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def wait_for(find: Callable[[], Found], seconds: float = 120.0) -> Found:
    """What ``find`` returns once that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"nothing came within {seconds} s"
        time.sleep(0.02)
    return found


def query(prometheus: str, expression: str) -> list[Any]:
    """The series of an instant query."""
    connection = http.client.HTTPConnection(prometheus, timeout=10)
    connection.request("GET", f"/api/v1/query?query={quote(expression)}")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["status"] == "success", answer
    series: list[Any] = answer["data"]["result"]
    return series


@contextmanager
def load(server: LiveServer, **fields: Any) -> Iterator[None]:
    """Requests to all targets, one after the other, until the end of the block."""
    ended = threading.Event()

    def ask() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            server.complete(model=("target", "other")[number % 2], prompt=f"the other one {number}", **fields)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
