"""Serve targets over one sorted draft to any OpenAI client.

Several texts run at a time and share the calls of their targets and of the draft. Each text is what the
target alone would generate with the same seed, and what python -m runtime.run prints, bit for bit on a
CPU, whoever else is served.

  python -m runtime.serve --target target-17m --target target-6m --port 8000
  python -m runtime.serve --target my-chat-model --draft my-draft --api-key-file keys.txt --host 0.0.0.0
  python -m runtime.serve --target target-17m --unix-socket /run/s2d.sock --sequences 16 --max-queue 200

  python -m runtime.serve --target target-17m --api-key KEY --admin --check-identity 0.01

Endpoints: /v1/completions /v1/chat/completions /v1/models /tokenize /detokenize /health /openapi.json
/metrics for Prometheus, / for a page that shows what happens
Several replicas behind one address: python -m runtime.scaling
The first SIGTERM or Ctrl-C lets running texts end, a second one ends them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.commands.arguments import (
    NO_DRAFT,
    add_drafting_arguments,
    add_engine_arguments,
    check_profile,
    drafting_policy,
    placement,
)
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.machine.memory import memory_in_use
from s2d_trt.cli import ArgumentParser, byte_size, positive_int, run_command
from s2d_trt.errors import OptionError

if TYPE_CHECKING:
    from runtime.observability.monitor import Monitor
    from runtime.serving.server import Server
    from runtime.serving.state import ServerState
    from runtime.serving.targets import ServedTarget

PROG = "python -m runtime.serve"
KEY_VARIABLE = "S2D_API_KEY"
MIB = 2**20


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; a mistake ends the program."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument(
        "--target", action="append", required=True, help="target bundle, a path or a name under engines/; repeat it"
    )
    add_engine_arguments(parser)
    add_drafting_arguments(parser)
    _add_network_arguments(parser)
    _add_limit_arguments(parser)
    _add_monitoring_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Load, listen, serve until a signal comes."""
    arguments = arguments_of(argv)
    try:
        return asyncio.run(Serving(arguments).run())
    except ModuleNotFoundError as cause:
        package = (cause.name or "").partition(".")[0]
        if package not in ("starlette", "uvicorn", "msgspec", "prometheus_client"):
            raise
        raise OptionError(f"{package} is not installed; pip install -e '.[serve]' in the checkout") from cause


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    group.add_argument("--port", type=_port, default=8000, help="0: any that is free (%(default)s)")
    group.add_argument("--unix-socket", type=Path, metavar="PATH", help="listen there instead")
    group.add_argument("--api-key", action="append", default=[], metavar="KEY", help=f"or in {KEY_VARIABLE}; repeat it")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="one key a line")
    group.add_argument(
        "--cors-origin", action="append", default=[], metavar="URL", help="whose pages may ask; * is all"
    )
    group.add_argument("--ssl-certfile", metavar="FILE", help="serve TLS with it")
    group.add_argument("--ssl-keyfile", metavar="FILE")
    group.add_argument("--ssl-keyfile-password", metavar="TEXT")
    group.add_argument(
        "--access-log", default="-", metavar="FILE", help="JSON lines; - is stdout, or none (%(default)s)"
    )


def _add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--sequences", type=positive_int, default=8, help="texts that run at a time (%(default)s)")
    group.add_argument("--max-queue", type=_whole, default=64, help="texts that wait; more get 429 (%(default)s)")
    group.add_argument(
        "--max-concurrent", type=positive_int, default=256, help="requests at a time; more get 429 (%(default)s)"
    )
    group.add_argument("--max-body", type=positive_int, default=4, metavar="MIB", help="of a request (%(default)s)")
    group.add_argument("--cache-limit", type=positive_int, metavar="MIB", help="for the caches of running texts")
    group.add_argument("--prefix-cache", type=_whole, default=0, metavar="MIB", help="for earlier texts' (%(default)s)")
    group.add_argument(
        "--request-timeout", type=_seconds, default=600.0, metavar="S", help="of an answer; 0: none (%(default)g)"
    )
    group.add_argument(
        "--keep-alive", type=_seconds, default=15.0, metavar="S", help="comment in a stream (%(default)g)"
    )
    group.add_argument(
        "--drain-seconds", type=_seconds, default=30.0, metavar="S", help="for running texts at the end (%(default)g)"
    )


def _add_monitoring_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("monitoring")
    group.add_argument("--metrics-alias", choices=("vllm",), help="show the metrics under vLLM's names too")
    group.add_argument(
        "--check-identity",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="of the texts: generate them again without drafting in idle time, and compare (%(default)g)",
    )
    group.add_argument(
        "--admin", action="store_true", help="let those with a key change policies at /admin/policy while it serves"
    )


class Serving:
    """One run of the command; or its application alone, where something else listens."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from runtime.observability.monitor import Monitor
        from runtime.serving.access_log import AccessLog
        from runtime.serving.app import create_app
        from runtime.serving.server import Server
        from runtime.serving.state import Limits, ServerState

        self.arguments = arguments
        self.began = time.monotonic()
        keys = _keys(arguments)
        if arguments.admin and not keys:
            raise OptionError("--admin lets requests change the server; give an --api-key too")
        self.options = Options(policy=drafting_policy(arguments), exact=arguments.exact)
        tls = _tls(arguments)
        self.log = None if arguments.access_log == "none" else AccessLog(arguments.access_log)
        limits = Limits(
            max_body=arguments.max_body * MIB,
            max_concurrent=arguments.max_concurrent,
            request_seconds=arguments.request_timeout or None,
            keep_alive_seconds=arguments.keep_alive or 1e9,
        )
        self.monitor: Monitor = Monitor(arguments.metrics_alias == "vllm", arguments.check_identity, arguments.admin)
        self.state: ServerState = ServerState(limits, self.monitor.observers)
        routes, operations = self.monitor.routes(self.state), self.monitor.operations
        self.app = create_app(self.state, routes, keys, arguments.cors_origin, self.log, operations)
        self.server: Server = Server(self.app, self.state, arguments.drain_seconds, **tls)
        self.service: TextService | None = None

    async def run(self) -> int:
        """Serve; the exit code is 1 where texts were cut off."""
        sock, address = self.listen()
        serving = asyncio.ensure_future(self.server.serve([sock]))
        try:
            loading = _in_thread(self.load)
            await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                self.begin(await loading, address)
            await serving
        finally:
            self.server.force_exit = self.server.should_exit = True
            await asyncio.wait({serving})
            await asyncio.to_thread(self.close)
        return int(self.server.cut)

    def listen(self) -> tuple[socket.socket, str]:
        """The socket that the options name, and its address. Raises OptionError."""
        from runtime.serving.server import listen, listen_unix

        if (path := self.arguments.unix_socket) is not None:
            return listen_unix(path), f"unix:{path}"
        sock = listen(self.arguments.host, self.arguments.port)
        host, port = sock.getsockname()[:2]
        scheme = "https" if self.arguments.ssl_certfile else "http"
        return sock, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def load(self) -> list[ServedTarget]:
        """Load draft and targets. Raises S2DError."""
        from runtime.serving.loading import load_targets

        arguments = self.arguments
        draft = None if arguments.draft == NO_DRAFT else arguments.draft
        where, sequences, check = placement(arguments), arguments.sequences, (arguments.verify, arguments.measure)
        served = load_targets(arguments.target, draft, where, self.options, sequences, _say, *check)
        for each in served:
            check_profile(each.decoder, arguments)
        return served

    def begin(self, targets: list[ServedTarget], address: str) -> None:
        """Take requests; on the event loop."""
        from runtime.serving.loading import cache_bytes
        from runtime.serving.texts import ServedTexts

        arguments = self.arguments
        limit = None if arguments.cache_limit is None else arguments.cache_limit * MIB
        memory = CacheMemory(limit, arguments.prefix_cache * MIB)
        scheduler = Scheduler(arguments.sequences, memory)
        self.service = TextService(scheduler)
        self.monitor.begin(targets, scheduler, self.service)
        texts = ServedTexts(self.service, arguments.sequences, arguments.max_queue, self.state.observer)
        self.state.ready(targets, texts)
        caches = min(cache_bytes(targets, arguments.sequences), limit or sys.maxsize)
        _say(
            f"ready after {time.monotonic() - self.began:.1f} s on {address}: {len(targets)} targets,"
            f" {arguments.sequences} texts at a time, {arguments.max_queue} wait"
        )
        _say(
            f"memory: {byte_size(memory_in_use())} now, up to {byte_size(caches)} for running texts,"
            f" {byte_size(arguments.prefix_cache * MIB)} for prefixes,"
            f" {byte_size(arguments.max_concurrent * self.state.limits.max_body)} for requests' bodies"
        )

    def close(self) -> None:
        """End all texts."""
        if self.service is not None:
            self.service.close()
        if self.log is not None:
            self.log.close()
        if self.arguments.unix_socket is not None:
            self.arguments.unix_socket.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_thread(work: Any) -> asyncio.Future[Any]:
    """As ``asyncio.to_thread``, but the end of the program does not wait for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            loop.call_soon_threadsafe(result.set_exception, error)
        else:
            loop.call_soon_threadsafe(result.set_result, value)

    threading.Thread(target=run, name="s2d-trt loading", daemon=True).start()
    return result


def _keys(arguments: argparse.Namespace) -> list[str]:
    keys = list(arguments.api_key)
    if arguments.api_key_file is not None:
        try:
            lines = arguments.api_key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise OptionError(f"{arguments.api_key_file} cannot be read; name a file of keys, one a line") from cause
        keys += [line.strip() for line in lines if line.strip()]
        if not keys:
            raise OptionError(f"{arguments.api_key_file} holds no key; write one a line")
    if not keys and os.environ.get(KEY_VARIABLE):
        keys.append(os.environ[KEY_VARIABLE])
    if any(not key.strip() for key in keys):
        raise OptionError("an API key is empty; leave it out or give at least one character")
    return keys


def _tls(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.ssl_certfile is None:
        if arguments.ssl_keyfile is not None:
            raise OptionError("--ssl-keyfile needs --ssl-certfile")
        return {}
    import ssl

    names = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password")
    options = {name: getattr(arguments, name) for name in names}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*options.values())
    except (OSError, ssl.SSLError) as cause:
        raise OptionError(f"the TLS certificate or its key cannot be read ({cause}); name PEM files") from cause
    return options


def _port(text: str) -> int:
    value = _whole(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return value


def _share(text: str) -> float:
    value = _seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return value


if __name__ == "__main__":
    run_command(PROG, main)
