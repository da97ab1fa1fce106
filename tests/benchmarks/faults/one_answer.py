"""A server that ends after its first answer, which it writes to a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from runtime import serve
from s2d_trt.files import write_file


def main(argv: Sequence[str]) -> int:
    """TARGET SOCKET FILE."""
    target, path, out = argv
    threading.Thread(target=_ask, args=(Path(target).stem, path, Path(out)), daemon=True).start()
    options = ("--draft", "none", "--threads", "1", "--access-log", "none")
    return serve.main(["--target", target, "--unix-socket", path, *options])


def _ask(model: str, path: str, out: Path) -> None:
    body = json.dumps({"model": model, "prompt": [5, 9, 7], "max_tokens": 8, "temperature": 0, "seed": 1}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = b""
    while b" 200 " not in answer[:20]:
        time.sleep(0.02)  # it does not listen yet, or loads
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.connect(path)
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    write_file(out, json.dumps(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]))
    os.kill(os.getpid(), signal.SIGTERM)
