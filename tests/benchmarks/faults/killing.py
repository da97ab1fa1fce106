"""Runs a piece of work again and again in children that are killed at random moments; a program of its own.

    python killing.py SEED KILLS MOST_SECONDS BUNDLE DONE MODULES ARGUMENT...

The work is ``main(arguments)`` of the first of the modules, which are imported once, so that children begin at once.
The last child is not killed. Where there was a bundle at BUNDLE before a child or after an earlier one, there must be
a whole one after it. What the work refuses to write twice, DONE, is removed when it is there, and the work begins anew.
Prints JSON: how many were killed, the seconds of the last child, and how many processes were
left.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from s2d_trt.bundle import Bundle
from s2d_trt.manifest import MANIFEST

SUBREAPER = 36
"""Linux's PR_SET_CHILD_SUBREAPER: what killed children leave behind becomes a child of this process."""
GRACE = 3.0
"""Seconds for the processes of a killed one to end."""


def main(seed: str, kills: str, most: str, bundle: str, done: str, modules: str, *arguments: str) -> None:
    """Kill, then let the work end once."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    rng, imported = random.Random(int(seed)), [importlib.import_module(name) for name in modules.split(",")]
    killed, there, seconds = 0, (Path(bundle) / MANIFEST).exists(), 0.0
    for remaining in range(int(kills), -1, -1):
        shutil.rmtree(done, ignore_errors=True)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(imported[0].main([*arguments]) or 0)
        if remaining:
            time.sleep(float(most) * rng.random())
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        killed += os.WIFSIGNALED(status)
        there = there or (Path(bundle) / MANIFEST).exists()
        if there:
            Bundle.open(Path(bundle), verify=True)
        if not remaining and status:
            sys.exit(f"the last child ended with {status}")
    print(json.dumps({"killed": killed, "seconds": seconds, "processes left": _left()}))


def _left() -> int:
    """How many children do not end."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.05)
        except ChildProcessError:
            return 0
    return len(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii").split())


if __name__ == "__main__":
    main(*sys.argv[1:])
