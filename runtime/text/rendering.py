"""A chat template in a process of its own (``runtime.text.template_process``), which cannot take this one with it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

from runtime.text import template_process
from s2d_trt.errors import S2DError

WAIT = 60.0
"""Seconds after which an answer is given up, though the process may not have had a processor all the time."""


class RenderingError(Exception):
    """What a template did wrong, in words."""


class TemplateProcess:
    """Renders one template, a conversation at a time. The process starts with the first one, and again if it ended."""

    def __init__(self, source: str) -> None:
        self._source, self._lock = source, Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self) -> None:
        """Start the process. Raises RenderingError where the template is no valid Jinja."""
        with self._lock:
            self._start()

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises RenderingError, or TypeError or ValueError where the variables are no JSON."""
        line = json.dumps(variables, default=_plain)
        with self._lock:
            return self._ask(self._start(), line)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [_interpreter(), "-I", template_process.__file__, *sys.path]
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            finalize(self, _end, process)
            self._ask(process, json.dumps(self._source))
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], line: str) -> str:
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            answer: dict[str, str] = json.loads(_line(process))
        except (OSError, ValueError) as cause:
            _end(process)
            self._process = None
            raise RenderingError(
                f"it takes more than {template_process.SECONDS:g} s or {template_process.MEMORY >> 20} MiB"
            ) from cause
        if (error := answer.get("error")) is not None:
            raise RenderingError(error)
        return answer["text"]


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of the process. Raises ValueError where it ended, TimeoutError where it took too long."""
    assert process.stdout is not None
    handle, found, until = process.stdout.fileno(), bytearray(), time.monotonic() + WAIT
    while not found.endswith(b"\n"):
        if not select.select([handle], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        block = os.read(handle, 2**16)
        if not block:
            raise ValueError("the process ended")
        found += block
    return bytes(found)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not written can no longer be
                stream.close()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no part of a conversation")


@cache
def _interpreter() -> str:
    """This Python as a program; in a process that only embeds Python, ``sys.executable`` is another program."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [Path(prefix, "bin") for prefix in (sys.prefix, sys.base_prefix)]
    for path in (Path(sys.executable or ""), *(folder / name for folder in folders for name in (version, "python3"))):
        if path.name.startswith("python") and os.access(path, os.X_OK):
            return str(path)
    raise S2DError(f"no program {version} in {folders[0]}, in which chat templates run; install it there")
