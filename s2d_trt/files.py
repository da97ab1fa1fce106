"""Writing files and directories that appear complete or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2d_trt.errors import OptionError

try:
    import fcntl
except ImportError:  # no POSIX: what killed processes leave behind stays
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
OLD = "old"
"""Name, in a scratch directory, of a directory that is being replaced."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file there replaces ``path`` when the block ends.

    If the block raises, ``path`` stays as it was and nothing else is left. Missing parent directories are made.

    Raises:
        OSError: the directory cannot be written, or the block wrote no file.
    """
    with _scratch_beside(path) as folder:
        scratch = folder / "new"
        yield scratch
        scratch.replace(path)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``, text as UTF-8; a reader sees the old content or the new. Raises OSError.

    What UTF-8 cannot hold, as the bytes of a path that are no UTF-8, is escaped.
    """
    with replacing_file(path) as scratch:
        scratch.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def write_result(path: Path, content: str) -> None:
    """As ``write_file``, for a file that the user asked for. Raises OptionError."""
    try:
        write_file(path, content)
    except OSError as cause:
        raise OptionError(f"{path} cannot be written ({cause.strerror}); name another place") from cause


@contextmanager
def publishing_directory(directory: Path, replace: bool = False) -> Iterator[Path]:
    """Give an empty directory to fill; it becomes ``directory`` when the block ends.

    If ``directory`` exists by then, it is kept and the new one is dropped: of several processes that make the same
    directory, the first wins. With ``replace`` the new one takes its place. If the block raises, ``directory`` stays as
    it was and nothing else is left. Missing parent directories are made.

    Raises:
        OSError: the parent directory cannot be written.
    """
    with _scratch_beside(directory) as folder:
        # The scratch directory is private; the one inside has the permissions that the user's umask gives.
        scratch, old = folder / "new", folder / OLD
        scratch.mkdir()
        yield scratch
        if replace and directory.exists():
            directory.rename(old)
        try:
            scratch.rename(directory)
        except OSError as cause:
            if cause.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it. Raises OSError."""
    for left in path.parent.iterdir():
        if fcntl is not None and left.name.startswith(_prefix(path)) and left.name.endswith(PARTIAL):
            with contextlib.suppress(OSError), _opened(left) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left, path)


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}-"


@contextmanager
def _scratch_beside(path: Path) -> Iterator[Path]:
    """A private directory beside ``path`` for the block; those that killed processes left there are removed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    with _locked_scratch(path) as scratch:
        try:
            yield scratch
        finally:
            _remove(scratch, path)


@contextmanager
def _locked_scratch(path: Path) -> Iterator[Path]:
    """A new directory whose lock goes with this process. Another process that saw it before it was locked may have
    removed it; then there is another try.
    """
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=PARTIAL, dir=path.parent))
        with contextlib.ExitStack() as stack:
            try:
                handle = stack.enter_context(_opened(scratch))
            except FileNotFoundError:
                continue
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
            if scratch.exists():
                yield scratch
                return


def _remove(scratch: Path, path: Path) -> None:
    if (scratch / OLD).exists() and not path.exists():
        (scratch / OLD).rename(path)
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
