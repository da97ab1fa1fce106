"""Serve several replicas behind one address, with Ray Serve.

Each replica is a whole server of runtime.serve, one draft with all its targets; a session stays with one replica. Where
a replica is lost in the middle of a stream, another one goes on with the same text. The options behind -- are those of
python -m runtime.serve.

  python -m runtime.scaling --replicas 2 --port 8000 -- --target target-17m --target target-6m --threads 1

A cluster that runs is used, else one is started on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.scaling"


def main(argv: Sequence[str]) -> None:
    """Deploy, and serve until interrupted."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--replicas", type=positive_int, default=2, help="of the server (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=positive_int, default=8000, help="(%(default)s)")
    parser.add_argument("--metrics-folder", type=Path, help="for Prometheus: a file for each replica (file_sd_configs)")
    own, served = list(argv), []
    if "--" in own:
        own, served = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)
    try:
        import ray
        from ray import serve

        from runtime.scaling.application import build
    except ModuleNotFoundError as cause:
        package = (cause.name or "").partition(".")[0]
        raise OptionError(f"{package} is not installed; pip install -e '.[ray]' in the checkout") from cause
    settings = {"serve": served, "replicas": arguments.replicas}
    if arguments.metrics_folder is not None:
        settings["metrics"] = str(arguments.metrics_folder.resolve())
    application = build(settings)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=True)
    serve.start(http_options={"host": arguments.host, "port": arguments.port})
    serve.run(application, name="s2d", route_prefix="/")
    print(f"ready on http://{arguments.host}:{arguments.port}: {arguments.replicas} replicas", flush=True)
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()


if __name__ == "__main__":
    run_command(PROG, main)
