"""This machine's processor: its cores, and a text that tells it from others."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


def physical_cores() -> int:
    """Cores this process may use, hyper-threads counted once where Linux tells them apart."""
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in available:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


@cache
def processor_identity() -> str:
    """The processor's model and instruction sets, for the keys of what is measured or written for it alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    names = ("model name", "CPU implementer", "CPU part", "flags", "Features")
    return "\n".join(first[name] for name in names if name in first) or platform.machine()
