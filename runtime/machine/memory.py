"""The memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CONTROL_GROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


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
