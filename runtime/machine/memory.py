"""The memory that this process takes, and may use."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from s2d_trt.memory import control_groups

_FRESH_SECONDS = 15.0
"""To sum up a large process's pages takes some tens of milliseconds."""
_latest = (-math.inf, 0)


def memory_used() -> int:
    """As ``memory_in_use``, of the last seconds."""
    global _latest
    if time.monotonic() - _latest[0] > _FRESH_SECONDS:
        _latest = time.monotonic(), memory_in_use()
    return _latest[1]


def memory_limit() -> int:
    """Bytes that the machine has, or fewer where a container may use fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in control_groups())])


def memory_in_use() -> int:
    """Bytes of RAM that this process takes; 0 where the system does not say.

    A page that several mappings share, as those of one weight file for graphs of several lanes, counts once.
    """
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    sizes = (line.split() for line in rollup.splitlines())
    return next((int(words[1]) * 1024 for words in sizes if words[0] == "Pss:"), 0)
