"""Prometheus and Alertmanager beside a server: their configuration, and their processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s2d_trt.errors import OptionError

FOLDER = Path(__file__).parent
ALERTS, DASHBOARD = FOLDER / "alerts.yml", FOLDER / "dashboard.json"
STOP_SECONDS = 45.0
"""A server lets its texts end first."""
PACKAGES = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}


@dataclass(slots=True)
class Stack:
    """Processes that are started and stopped together; each writes a log into ``folder``."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], log: bool = True) -> None:
        """Start a process; without ``log`` its output goes where this process's goes."""
        path = self.folder / f"{name}.log"
        with path.open("wb") if log else contextlib.nullcontext() as file:
            # Ctrl-C reaches this process alone, which then ends the others once.
            self.processes[name] = subprocess.Popen(
                command, stdout=file, stderr=file and subprocess.STDOUT, start_new_session=True
            )

    def check(self) -> None:
        """Raise OptionError where a process has ended."""
        for name, process in self.processes.items():
            if (code := process.poll()) is not None:
                log = self.folder / f"{name}.log"
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
                why = f": {lines[-1]}" if lines else "; see its message above"
                raise OptionError(f"{name} ended with code {code}{why}")

    def wait_until_ready(self, name: str, address: str, path: str, seconds: float) -> None:
        """Wait until ``http://address/path`` answers with 200. Raises OptionError after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not answers(address, path):
            self.check()
            if time.monotonic() > deadline:
                raise OptionError(f"{name} was not ready within {seconds:g} s; see {self.folder / name}.log")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask all to end; end those that do not within a while, or at a second Ctrl-C."""
        for process in self.processes.values():
            process.terminate()
        try:
            for process in self.processes.values():
                process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in self.processes.values():
                process.kill()
                process.wait()


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """A stack that is stopped at the end."""
    made = Stack(folder)
    try:
        yield made
    finally:
        made.stop()


def answers(address: str, path: str) -> bool:
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection(address, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def program(name: str) -> str:
    """The path of a program. Raises OptionError where it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise OptionError(f"{name} is not on the PATH; install it, on Debian with apt-get install {PACKAGES[name]}")
    return found


def prometheus_command(
    folder: Path, listen: str, server: str, alertmanager: str, alerts: str, seconds: float
) -> list[str]:
    """Write the configuration of a Prometheus that asks ``server`` every so many seconds; the command that runs it.

    ``alerts`` is the text of a file of rules. Addresses are ``host:port``.
    """
    every = f"{round(seconds * 1000)}ms"
    configuration = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": ["alerts.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": "s2d", "static_configs": [{"targets": [server]}]}],
    }
    (folder / "alerts.yml").write_text(alerts, encoding="utf-8")
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
    storage = ["--storage.tsdb.path", str(folder / "prometheus")]
    return [program("prometheus"), "--config.file", str(path), *storage, "--web.listen-address", listen]


def alertmanager_command(folder: Path, listen: str, webhook: str | None, wait: str = "10s") -> list[str]:
    """Write the configuration of an Alertmanager; the command that runs it.

    Alerts of one name and target are sent together to ``webhook``, after ``wait``; without it they are only shown.
    """
    receiver = {"name": "operator", **({"webhook_configs": [{"url": webhook}]} if webhook else {})}
    configuration = {
        "route": {
            "receiver": "operator",
            "group_by": ["alertname", "model"],
            "group_wait": wait,
            "group_interval": wait,
            "repeat_interval": "4h",
        },
        "receivers": [receiver],
    }
    path = folder / "alertmanager.yml"
    path.write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")
    storage = ["--storage.path", str(folder / "alertmanager"), "--cluster.listen-address", ""]
    name = "prometheus-alertmanager"
    return [program(name), "--config.file", str(path), *storage, "--web.listen-address", listen]
