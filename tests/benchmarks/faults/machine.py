"""A machine that misbehaves: its clock jumps, it takes cores, time and memory away, and gives them back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def jumping_clock(folder: Path) -> dict[str, str]:
    """Compile the clock into ``folder``; the environment of processes whose clock ``jump`` then moves."""
    library, page = folder / "clock.so", folder / "clock"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    page.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(page)}


def jump(environment: dict[str, str], seconds: int) -> None:
    """Set the clock of those processes so many seconds from the machine's own."""
    with Path(environment["JUMPING_CLOCK"]).open("r+b") as page:
        page.write(seconds.to_bytes(8, "little", signed=True))


def take_cores(pids: Sequence[int], seconds: float) -> None:
    """Leave the processes one core for some time."""
    cores = os.sched_getaffinity(0)
    for allowed in ({min(cores)}, cores):
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), allowed)
        if allowed != cores:
            time.sleep(seconds)


def pause(pids: Sequence[int], seconds: float) -> None:
    """Stop the processes for some time, as a machine does that is moved or suspended."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """A control group for processes to ``join``, below this process's own; None where there is no right to make one.

    A process of it that finds no memory waits until there is some; the system does not kill it.
    """
    own = next((line.split(":")[2] for line in _control_groups() if ":memory:" in line), "")
    group = Path(f"/sys/fs/cgroup/memory{own}/faults-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("-1", encoding="ascii")
        (group / "memory.oom_control").write_text("1", encoding="ascii")
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            join(group.parent, int(pid))
        group.rmdir()


def join(group: Path, pid: int) -> None:
    """Count what the process takes from now on, and the processes that it starts, in the group."""
    (group / "cgroup.procs").write_text(str(pid), encoding="ascii")


def take_memory(group: Path, seconds: float) -> None:
    """Leave the group room for a part of the file pages that it holds, as small as the system allows, for some time.

    Raises:
        OSError: it can free none of them.
    """
    limit = group / "memory.limit_in_bytes"
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    held = {name: int(size) for name, size in (line.split() for line in lines)}
    used = int((group / "memory.usage_in_bytes").read_text(encoding="ascii"))
    for share in (2, 4, 8, 16):
        try:
            limit.write_text(str(used - held["cache"] // share), encoding="ascii")
        except OSError:
            if share == 16:
                raise
            continue
        break
    time.sleep(seconds)
    limit.write_text("-1", encoding="ascii")


def _control_groups() -> list[str]:
    with contextlib.suppress(OSError):
        return Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    return []
