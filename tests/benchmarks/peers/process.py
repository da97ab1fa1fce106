"""Subprocesses that end with this one: commands, and workers that answer in JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from s2d_trt.errors import S2DError


class PeerError(S2DError):
    """A peer could not be installed, converted or run; the others go on without it."""


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """Inside it, SIGTERM ends this process as Ctrl-C does: what it started ends first."""

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_to_end(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a command. Raises PeerError with the last line that it wrote to stderr, if it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = _start(command, log, environment, stdin=subprocess.DEVNULL, stdout=log)
        try:
            code = process.wait()
        finally:
            _stop(process)
        if code:
            raise PeerError(_last_line(log) or f"{Path(command[0]).name} ended with {code}")


class Worker:
    """A process that reads requests and writes answers, a line of JSON for each."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed by close
        self._process = _start(command, self._log, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer to ``request``. Raises PeerError if it fails, dies or takes longer than ``timeout`` seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            raise PeerError(f"no answer within {timeout:.0f} s") from None
        if not line:
            code = self._process.wait()
            raise PeerError(f"the process ended with {code}: {_last_line(self._log) or 'it said nothing'}")
        try:
            answer = json.loads(line)
        except ValueError:
            raise PeerError(f"not an answer: {line.strip()[:200]}") from None
        if "error" in answer:
            raise PeerError(" ".join(str(answer["error"]).split())[:300])
        return dict(answer)

    def close(self) -> None:
        """End the process, and all that it started."""
        _stop(self._process)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put("")


def _start(
    command: Sequence[str], log: IO[str], environment: dict[str, str] | None, stdin: int, stdout: int | IO[str]
) -> subprocess.Popen[str]:
    try:
        # A group of its own: Ctrl-C comes here alone, and whatever the command starts can be ended with it.
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=log, text=True, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as cause:
        raise PeerError(f"{command[0]} cannot be started ({cause.strerror})") from cause


def _stop(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1][:300] if lines else ""
