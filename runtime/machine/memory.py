"""The memory that this process takes, and may use."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

_CONTROL_GROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

_FRESH_SECONDS = 15.0
"""To sum up a large process's pages takes some tens of milliseconds."""
_latest = (-math.inf, 0)


def memory_used() -> int:
    """Bytes of RAM that this process takes, of the last seconds; 0 where the system does not say.

    A page that several sessions or processes map counts once among them (proportional set size): the resident set
    size counts the weights of a model once for each of its sessions.
    """
    global _latest
    if time.monotonic() - _latest[0] > _FRESH_SECONDS:
        _latest = time.monotonic(), _proportional_set_size()
    return _latest[1]


def _proportional_set_size() -> int:
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        return 0


def memory_limit(control_groups: tuple[Path, ...] = _CONTROL_GROUPS) -> int:
    """Bytes that the machine has, or fewer where a container may use fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for path in control_groups:
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such group, or its limit is "max"
            continue
    return min(limits)
