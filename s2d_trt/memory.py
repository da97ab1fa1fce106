"""The memory that this process can still get."""

from __future__ import annotations

import re
from pathlib import Path

from s2d_trt.cli import byte_size
from s2d_trt.errors import CapacityError

_MEMINFO = Path("/proc/meminfo")
_CONTROL_GROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_memory() -> int | None:
    """Bytes that are free or can be freed, and no more than a container may use; None where that is not known."""
    found = []
    try:
        fields = dict(re.findall(r"^(MemAvailable|SwapFree):\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.M))
        found.append(1024 * (int(fields["MemAvailable"]) + int(fields.get("SwapFree", 0))))
    except (OSError, ValueError, KeyError):
        pass
    for path in _CONTROL_GROUPS:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such group, or its limit is "max"
            continue
    return min(found, default=None)


def check_memory(needed: int, what: str) -> None:
    """Refuse what cannot fit before anything is allocated.

    Raises:
        CapacityError: fewer than ``needed`` bytes are there for ``what``.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise CapacityError(
            f"{what} needs {byte_size(needed)} of memory and {byte_size(available)} are free here; use a smaller one,"
            " or a machine with more"
        )
