"""This user's machine-local caches: measured costs, exactness checks, reordered weights, compiled kernels."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from runtime.machine.processor import processor_identity
from s2d_trt import __version__
from s2d_trt.files import write_file

try:
    import fcntl
except ImportError:  # no POSIX: processes then do not wait for each other
    fcntl = None  # type: ignore[assignment]


def cache_directory() -> Path:
    """``s2d-trt`` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2d-trt"


def cache_file(kind: str, *parts: str) -> Path:
    """The JSON file of what was computed of ``parts``, by these versions on this processor."""
    key = "\n".join((__version__, onnxruntime.__version__, processor_identity(), *parts))
    return cache_directory() / kind / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".json")


def write_cache(path: Path, content: str | bytes) -> None:
    """Replace a cache file as a whole. A failure is no error: the next start only repeats the work."""
    with contextlib.suppress(OSError):
        write_file(path, content)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a cache file, so that one process at a time makes it; no lock where none can be had."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix(".lock").open("a"))
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
