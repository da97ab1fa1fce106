"""Serve several replicas behind one address, with Ray Serve.

Each replica is a whole server of runtime.serve, one draft with all its targets; a session stays with one replica. Where
a replica is lost in the middle of a stream, another one goes on with the same text. The options behind -- are those of
python -m runtime.serve.

  python -m runtime.scaling --replicas 2 --port 8000 -- --target target-17m --target target-6m --threads 1

A cluster that runs is used, else one is started on this machine. An application file for Ray's own command is
runtime.scaling.application:build.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.commands.arguments import NO_DRAFT
from runtime.scaling.settings import Settings
from runtime.serve import arguments_of
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.scaling"
NAME = "s2d"
"""Of the application on the cluster."""


def main(argv: Sequence[str]) -> None:
    """Deploy, and serve until interrupted."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--replicas", type=positive_int, default=2, help="of the server (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=positive_int, default=8000, help="(%(default)s)")
    parser.add_argument(
        "--max-queued", type=positive_int, default=64, help="calls that wait when all replicas are full (%(default)s)"
    )
    parser.add_argument("--metrics-folder", type=Path, help="for Prometheus: a file for each replica (file_sd_configs)")
    own, served = list(argv), []
    if "--" in own:
        own, served = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)
    options = arguments_of(served)
    for name in {*options.target, options.draft} - {NO_DRAFT}:
        find_bundle(name)
    folder = arguments.metrics_folder
    metrics = None if folder is None else str(folder.resolve())
    settings = Settings(tuple(served), arguments.replicas, max_queued=arguments.max_queued, metrics=metrics)
    try:
        run(settings, arguments.host, arguments.port)
    except ModuleNotFoundError as cause:
        package = (cause.name or "").partition(".")[0]
        if package not in ("ray", "starlette", "uvicorn", "prometheus_client"):
            raise
        raise OptionError(f"{package} is not installed; pip install -e '.[serve,ray]' in the checkout") from cause


def run(settings: Settings, host: str, port: int) -> None:
    """Start a cluster unless one runs, and serve on it until a signal comes. Raises OptionError."""
    from runtime.serving.server import listen

    listen(host, port).close()  # a port in use is told before a cluster is started
    import ray
    from ray import serve

    from runtime.scaling.application import build

    application = build(settings)
    try:
        ray.init(include_dashboard=False)
        serve.start(http_options={"host": host, "port": port})
    except Exception as cause:  # of many kinds
        raise OptionError(f"no Ray cluster can be had ({_first_line(cause)}); mend RAY_ADDRESS, or unset it") from cause
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Ray's own handler prints a stack
    try:
        serve.run(application, name=NAME, route_prefix="/")
        print(f"ready on http://{host}:{port}: {settings.replicas} replicas", flush=True)
        while True:
            signal.pause()
    except (RuntimeError, ray.exceptions.RayError) as cause:
        raise OptionError(f"the replicas do not start ({_first_line(cause)}); see what they say above") from cause
    finally:
        serve.delete(NAME)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


if __name__ == "__main__":
    run_command(PROG, main)
