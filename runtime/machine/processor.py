"""What the processor has: cores, and whether it sums products of bytes without losing any."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
EXACT_BYTE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}


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


def sums_bytes_exactly() -> bool:
    """False where an x86 processor adds pairs of byte products in 16 bits, which overflow.

    ONNX Runtime's kernels do so without VNNI. What cannot be told is taken to be well.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not flags or not EXACT_BYTE_SUMS.isdisjoint(flags.split())
