"""Replicas as their users run them, on a Ray cluster of their own, and what each says of itself."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.serving.process import address_of, counters, end


@dataclass(frozen=True, slots=True)
class Replica:
    """One that answers. ``tokens`` were generated, ``cancelled`` texts ended early."""

    pid: int
    url: str
    tokens: float
    cancelled: float

    def kill(self) -> None:
        """End its process at once."""
        os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running ``runtime.scaling``; ``metrics`` is the folder in which replicas tell of themselves."""

    process: subprocess.Popen[bytes]
    url: str
    metrics: Path

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def replicas(self) -> dict[str, Replica]:
        """Those that answer, by name."""
        found = {}
        for file in self.metrics.glob("*.json"):
            try:
                (given,) = json.loads(file.read_text(encoding="utf-8"))
                url, pid = f"http://{given['targets'][0]}", int(given["labels"]["__meta_process"])
                samples = counters(url)
            except OSError:  # it was killed, and another one may have removed its file
                continue
            tokens = sum(count for name, count in samples.items() if name.startswith("s2d_generated_tokens_total"))
            cancelled = sum(
                count
                for name, count in samples.items()
                if name.startswith("s2d_requests_total") and 'finish_reason="cancelled"' in name
            )
            found[file.stem] = Replica(pid, url, tokens, cancelled)
        return found

    def whole(self, replicas: int) -> dict[str, Replica]:
        """As ``replicas``, when there are so many."""
        while len(found := self.replicas()) != replicas:
            continue
        return found


@contextmanager
def cluster(targets: Sequence[str], draft: str, replicas: int, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """Start replicas, and end them as an operator does. ``options`` may have ``--`` and the server's behind it."""
    own, served = list(options), []
    if "--" in own:
        own, served = own[: own.index("--")], own[own.index("--") + 1 :]
    names = [argument for target in targets for argument in ("--target", target)]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # the paths of sockets must be short
        metrics, said = Path(folder) / "metrics", Path(folder) / "said"
        environment = {**os.environ, "RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment.pop("RAY_ADDRESS", None)
        command = [
            *(sys.executable, "-m", "runtime.scaling", "--replicas", str(replicas), "--port", str(_free_port())),
            *("--metrics-folder", str(metrics), *own, "--", *names, "--draft", draft, "--access-log", "none", *served),
        ]
        with said.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            yield Cluster(process, address_of(process, said), metrics)
        finally:
            end(process)


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
