"""Running a function in its own process, which frees all memory at its end and whose crash is only an error here."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from s2d_trt.errors import S2DError

P = ParamSpec("P")
R = TypeVar("R")


STALLED_SECONDS = 60
"""A process that uses no CPU time for so long never ends: TensorRT hangs so when a thread of it gets no memory."""


LOADER_FAILED = 127
"""Exit code of the dynamic loader."""


NO_RANDOM_ADDRESSES = 0x0040000
"""Linux's ADDR_NO_RANDOMIZE: a process that starts under it has its memory at the same addresses each time."""
CURRENT = 0xFFFFFFFF


class StalledError(S2DError):
    """The process used no CPU time and did not end."""


class DiedError(S2DError):
    """The process ended without an answer, by the signal ``signal_number`` or, where that is 0, by itself.

    ``starved``: memory ran out, so the system killed it or the dynamic loader could not map a library.
    """

    def __init__(self, exit_code: int) -> None:
        self.signal_number = max(-exit_code, 0)
        self.starved = self.signal_number == signal.SIGKILL or exit_code == LOADER_FAILED
        cause = signal.Signals(self.signal_number).name if self.signal_number else f"exit code {exit_code}"
        super().__init__(f"the process ended with {cause}; run it again, with more memory free")


def isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, int]:
    """What ``function`` returns, and the peak of its process's resident memory in bytes.

    Function, arguments, result and errors must pickle.

    Raises:
        DiedError: it was killed or crashed.
        StalledError: it stopped working. What ``function`` raises is raised here too.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, args, kwargs), daemon=True)
    with same_addresses():
        process.start()
    theirs.close()  # so that its end is seen here
    try:
        _wait(ours, process.pid)
        result, error, peak = ours.recv()
    except EOFError:
        process.join()
        raise DiedError(process.exitcode or 0) from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result, peak


@contextlib.contextmanager
def same_addresses() -> Iterator[None]:
    """Processes that are started inside have their memory at the same addresses each time, where the system allows it.

    TensorRT writes some things in an order that depends on their addresses.
    """
    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]
    before = personality(CURRENT)
    personality(before | NO_RANDOM_ADDRESSES)
    try:
        yield
    finally:
        personality(before)


def _wait(connection: Connection, process: int | None) -> None:
    """Return when there is an answer or the process has ended; raise StalledError where it neither ends nor works."""
    before = -1
    while not connection.poll(STALLED_SECONDS):
        # Fields 14 and 15 of a process's stat: ticks of CPU time. The name, which may hold spaces, ends with ")".
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        now = int(fields[11]) + int(fields[12])
        if now == before:
            raise StalledError(f"the process used no CPU time for {STALLED_SECONDS} s and was ended")
        before = now


def _answer(connection: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    # Ctrl-C reaches both processes; the one that waits ends the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result, error = None, None
    try:
        result = function(*args, **kwargs)
    except (S2DError, MemoryError, OSError) as caught:
        error = caught
    connection.send((result, error, peak_memory()))
    connection.close()


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; 0 where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
