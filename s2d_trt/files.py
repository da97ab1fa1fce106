"""Writing files and directories that appear complete or not at all."""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; the file there replaces ``path`` when the block ends.

    If the block raises, ``path`` stays as it was and nothing else is left. Missing parent directories are made.

    Raises:
        OSError: the directory cannot be written, or the block wrote no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}.partial")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``, text as UTF-8; a reader sees the old content or the new. Raises OSError."""
    with replacing_file(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def publishing_directory(directory: Path, replace: bool = False) -> Iterator[Path]:
    """Give an empty directory to fill; it becomes ``directory`` when the block ends.

    If ``directory`` exists by then, it is kept and the new one is dropped: of several processes that make the same
    directory, the first wins. With ``replace`` the new one takes its place. If the block raises, ``directory`` stays as
    it was and nothing else is left. Missing parent directories are made.

    Raises:
        OSError: the parent directory cannot be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp makes a private directory; the one inside has the permissions that the user's umask gives.
    parent = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    scratch, old = parent / directory.name, parent / "old"
    try:
        scratch.mkdir()
        yield scratch
        if replace and directory.exists():
            directory.rename(old)
        try:
            scratch.rename(directory)
        except OSError as cause:
            if cause.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        if old.exists() and not directory.exists():
            old.rename(directory)
        shutil.rmtree(parent, ignore_errors=True)
