"""The server as its users run it, in a process of its own, and what it says of itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from s2d_trt.errors import S2DError

READY = re.compile(r"^ready (?:after [\d.]+ s )?on (http://\S+):", re.MULTILINE)
START_SECONDS = 900.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class ServerProcess:
    """A running ``runtime.serve``."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def resident_bytes(self) -> int:
        """Memory in RAM."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Its file descriptors."""
        return len([*Path(f"/proc/{self.process.pid}/fd").iterdir()])

    def threads(self) -> int:
        """Its threads."""
        return len([*Path(f"/proc/{self.process.pid}/task").iterdir()])

    def counters(self) -> dict[str, float]:
        """Prometheus samples by ``name{labels}``."""
        return counters(self.url)


def counters(url: str) -> dict[str, float]:
    """Prometheus samples of the server at ``url``, by ``name{labels}``. Raises OSError."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {f"{name}{{{labels}}}": float(value) for name, labels, value in _SAMPLE.findall(text)}


@contextmanager
def server(targets: Sequence[str], draft: str, options: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Start the server on a free port, and end it as an operator does."""
    with tempfile.TemporaryDirectory() as folder:
        said, log = Path(folder) / "said", Path(folder) / "access.log"
        names = [argument for target in targets for argument in ("--target", target)]
        command = [sys.executable, "-m", "runtime.serve", *names, "--draft", draft, "--port", "0"]
        with said.open("wb") as errors:
            process = subprocess.Popen([*command, "--access-log", str(log), *options], stderr=errors)
        try:
            yield ServerProcess(process, address_of(process, said), log)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, as an operator does."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def address_of(process: subprocess.Popen[bytes], said: Path) -> str:
    """Where a server listens, once it says so in ``said``. Raises S2DError where it ends before."""
    shown = 0
    while True:
        text = said.read_text(encoding="utf-8")
        sys.stderr.write(text[shown:])
        shown = len(text)
        if ready := READY.search(text):
            return ready[1]
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise S2DError("the server did not start; it says why above")
