"""Start a server with Prometheus and Alertmanager, and say where everything is.

What follows -- are the options of runtime.serve. Prometheus asks the server every few seconds and
sends alerts to Alertmanager; all three end together, at Ctrl-C.

  python -m runtime.observe -- --draft draft --target target-17m --target target-6m
  python -m runtime.observe --data monitoring --webhook http://127.0.0.1:5001/ -- --target target-17m

Prometheus and Alertmanager must be installed: apt-get install prometheus prometheus-alertmanager.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from runtime.observability.stack import ALERTS, DASHBOARD, alertmanager_command, program, prometheus_command, stack
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.observe"
LOADING_SECONDS = 600.0
"""For a large bundle, and the measurement of a first start."""


def main(argv: Sequence[str]) -> None:
    """Start all, wait, stop all."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--data", type=Path, help="folder for configuration, logs and samples (default: a passing one)")
    parser.add_argument("--prometheus-port", type=positive_int, default=9090, help="(%(default)s)")
    parser.add_argument("--alertmanager-port", type=positive_int, default=9093, help="(%(default)s)")
    parser.add_argument("--webhook", metavar="URL", help="where Alertmanager sends alerts (default: it shows them)")
    parser.add_argument("--scrape-seconds", type=positive_int, default=5, help="(%(default)s)")
    parser.add_argument("serve", nargs=argparse.REMAINDER, metavar="-- OPTIONS", help="of runtime.serve")
    arguments = parser.parse_args(argv)
    options = arguments.serve[1:] if arguments.serve[:1] == ["--"] else arguments.serve
    server = f"127.0.0.1:{_server_port(options)}"
    prometheus, alertmanager = (
        f"127.0.0.1:{port}" for port in (arguments.prometheus_port, arguments.alertmanager_port)
    )
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    signal.signal(signal.SIGTERM, _interrupt)
    with _folder(arguments.data) as folder, stack(folder) as running:
        rules = ALERTS.read_text(encoding="utf-8")
        running.start("alertmanager", alertmanager_command(folder, alertmanager, arguments.webhook))
        running.start(
            "prometheus",
            prometheus_command(folder, prometheus, server, alertmanager, rules, arguments.scrape_seconds),
        )
        running.wait_until_ready("alertmanager", alertmanager, "/-/ready", 30.0)
        running.wait_until_ready("prometheus", prometheus, "/-/ready", 30.0)
        access_log = ["--access-log", str(folder / "access.log")]  # unless the options name another one
        running.start("server", [sys.executable, "-m", "runtime.serve", *access_log, *options], log=False)
        running.wait_until_ready("server", server, "/health", LOADING_SECONDS)
        print(
            f"live page      http://{server}/\n"
            f"metrics        http://{server}/metrics\n"
            f"Prometheus     http://{prometheus}/alerts\n"
            f"Alertmanager   http://{alertmanager}/\n"
            f"Grafana        Dashboards > New > Import: upload {DASHBOARD},\n"
            f"               with a data source of type Prometheus at http://{prometheus}",
            flush=True,
        )
        while True:
            running.check()
            time.sleep(0.5)


def _server_port(options: Sequence[str]) -> int:
    """The port among the options of the server. Raises OptionError where Prometheus could not ask it there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--port", default="8000")
    for name in ("--unix-socket", "--ssl-certfile"):
        parser.add_argument(name)
    try:
        known = parser.parse_known_args(options)[0]
        port = int(known.port)
    except (argparse.ArgumentError, ValueError):
        port = 0
    if not 0 < port < 65536:
        raise OptionError("Prometheus must know the server's port; give --port a number from 1 to 65535 after --")
    if known.unix_socket or known.ssl_certfile:
        raise OptionError("this Prometheus asks over HTTP; leave --unix-socket and --ssl-certfile out")
    return port


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="s2d-observe-") as name:
        yield Path(name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(PROG, main)
