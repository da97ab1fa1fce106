"""The memory that this process can still get."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from s2d_trt.cli import byte_size
from s2d_trt.errors import CapacityError

_MEMINFO, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_FILES = {
    True: ("memory.max", "memory.current", "file"),
    False: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
}
"""Of a control group of version 2, and 1: its limit, what it uses, and the part of that which the system can free."""


def available_memory() -> int | None:
    """Bytes that are free or can be freed, and no more than a container may use; None where that is not known."""
    found = [limit - used for limit, used in control_groups()]
    try:
        fields = dict(re.findall(r"^(MemAvailable|SwapFree):\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.M))
        found.append(1024 * (int(fields["MemAvailable"]) + int(fields.get("SwapFree", 0))))
    except (OSError, ValueError, KeyError):
        pass
    return min(found, default=None)


def control_groups() -> Iterator[tuple[int, int]]:
    """The limit of each control group that this process's memory counts in, and what it uses beside file pages."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        limit, usage, freeable = _FILES[not controllers]
        # In a container the mounted root is the container's own group; the path may be one outside.
        inner = PurePosixPath(path.lstrip("/"))
        for folder in (_GROUPS / ("memory" if controllers else "") / each for each in (inner, *inner.parents)):
            try:
                most = int((folder / limit).read_text(encoding="ascii"))
                used = int((folder / usage).read_text(encoding="ascii"))
                found = re.search(rf"^{freeable} (\d+)$", (folder / "memory.stat").read_text(encoding="ascii"), re.M)
            except (OSError, ValueError):  # there is no such group, or its limit is "max"
                continue
            yield most, max(0, used - int(found[1] if found else 0))


def check_memory(needed: int, what: str) -> None:
    """Refuse what cannot fit before anything is allocated.

    Raises:
        CapacityError: fewer than ``needed`` bytes are there for ``what``.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise CapacityError(
            f"{what} needs {byte_size(needed)} of memory and {byte_size(max(0, available))} are free here; use a"
            " smaller one, or a machine with more"
        )
