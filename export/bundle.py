"""Writing a bundle atomically: files are named by their content, and the manifest is replaced last."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2d_trt.bundle import file_sha256
from s2d_trt.cli import byte_size
from s2d_trt.errors import OptionError
from s2d_trt.manifest import MANIFEST, FileEntry, Manifest
from s2d_trt.reading import read_json

PARTIAL_PREFIX = ".partial-"
ID_LENGTH = 12
OWN_FILE = re.compile(rf"[\w.]+-[0-9a-f]{{{ID_LENGTH}}}\.\w+")


def check_destination(out: Path) -> None:
    """Refuse to write to anything but a bundle or a new directory.

    Raises:
        OptionError: ``out`` is a file, or a directory that holds other things.
    """
    if out.is_dir():
        if _is_bundle(out) or all(_is_ours(path) for path in out.iterdir()):
            return
        raise OptionError(f"--out {out} is a directory but not a bundle; name a new one, like engines/NAME.engine")
    if out.exists() or out.is_symlink():
        raise OptionError(f"--out {out} exists and is not a directory; name a new one, like engines/NAME.engine")


def check_space(out: Path, size: int) -> None:
    """Refuse to begin a build that the disk has no room for; an older bundle is kept until the new one is complete.

    Raises:
        OptionError: fewer than ``size`` bytes are free.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise OptionError(
            f"--out {out} needs {byte_size(size)} and its disk has {byte_size(free)} free; make room there or"
            " name another"
        )


class BundleWriter:
    """Files of one build, kept apart in a staging directory until ``commit``."""

    def __init__(self, out: Path, staging: Path) -> None:
        self.out = out
        self.staging = staging
        self._files: dict[str, FileEntry] = {}

    def scratch(self, name: str) -> Path:
        """A path for a file whose content is not known yet, and so neither is its final name."""
        return self.staging / f"{name}.unnamed"

    def adopt(self, name: str, path: Path, sha256: str | None = None) -> str:
        """Take a written file into the bundle and return its name there.

        ``head.onnx`` becomes ``head-<first digits of its SHA-256>.onnx``: a new build never touches a file of the old
        one, and the same content has the same name.
        """
        digest = sha256 or file_sha256(path)
        stem, suffix = Path(name).stem, Path(name).suffix
        final = f"{stem}-{digest[:ID_LENGTH]}{suffix}"
        path.replace(self.staging / final)
        self._files[final] = FileEntry((self.staging / final).stat().st_size, digest)
        return final

    def add(self, name: str, content: bytes) -> str:
        """Write a small file into the bundle and return its name there."""
        path = self.scratch(name)
        path.write_bytes(content)
        return self.adopt(name, path, hashlib.sha256(content).hexdigest())

    @property
    def files(self) -> dict[str, FileEntry]:
        """Every file taken so far, for the manifest."""
        return dict(self._files)

    def commit(self, manifest: Manifest) -> None:
        """Make the build the bundle: move its files in, then replace the manifest, then drop what it does not name."""
        text = self.staging / MANIFEST
        text.write_text(manifest.to_json(), encoding="utf-8")
        for name in (*self._files, MANIFEST):
            _sync(self.staging / name)
        for name in self._files:
            (self.staging / name).replace(self.out / name)
        _sync(self.out)
        text.replace(self.out / MANIFEST)
        _sync(self.out)


@contextmanager
def write_bundle(out: Path) -> Iterator[BundleWriter]:
    """A writer for the bundle at ``out``; files that were not committed are removed when the block ends.

    A directory that was created for a build that failed is removed too.

    Raises:
        OptionError: ``out`` is not a bundle, cannot be written, or another build is writing it.
    """
    check_destination(out)
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            try:
                _sweep(out)
                yield BundleWriter(out, Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=out)))
            finally:
                _sweep(out)
                if created and not any(out.iterdir()):
                    out.rmdir()
    except OSError as cause:
        raise OptionError(f"--out {out} cannot be written ({cause}); make room there or name another") from cause


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory for one build; the lock goes with the process."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OptionError(f"another build is writing {directory}; wait for it to end") from None
    try:
        yield
    finally:
        os.close(handle)


def _sweep(out: Path) -> None:
    """Remove what builds left behind: staging directories and own files that no manifest names."""
    try:
        data = read_json(out / MANIFEST)
        kept = {MANIFEST, *dict(data["files"])}
    except FileNotFoundError:
        kept = set()
    except (OSError, ValueError, KeyError, TypeError):
        # A damaged manifest names nothing for certain: leave all but staging until a new one replaces it.
        kept = {path.name for path in out.iterdir() if not path.name.startswith(PARTIAL_PREFIX)}
    for path in out.iterdir():
        if path.name.startswith(PARTIAL_PREFIX):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept and OWN_FILE.fullmatch(path.name):
            path.unlink()


def _is_ours(path: Path) -> bool:
    return path.name.startswith(PARTIAL_PREFIX) or OWN_FILE.fullmatch(path.name) is not None


def _is_bundle(directory: Path) -> bool:
    """Whether a build made this directory; its manifest may since have been damaged."""
    try:
        data = read_json(directory / MANIFEST)
    except OSError:
        return False
    except ValueError:
        others = [path for path in directory.iterdir() if path.name != MANIFEST]
        return bool(others) and all(_is_ours(path) for path in others)
    return isinstance(data, dict) and {"schema", "kind", "files"} <= data.keys()


def _sync(path: Path) -> None:
    """Put a file or directory on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
