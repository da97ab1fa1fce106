"""Reading a bundle: a directory ``NAME.engine/`` whose ``manifest.json`` names everything in it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from s2d_trt.errors import BundleError
from s2d_trt.manifest import MANIFEST, Manifest
from s2d_trt.reading import is_unicode, read_object

Loaded = TypeVar("Loaded")

LONGEST_NAME = 4096
"""Characters in the name of a bundle; no path is longer."""
ALWAYS_HASH_BELOW = 256 * 2**20
"""Bytes of a bundle from which its files are hashed only when ``verify`` asks for it, since hashing takes seconds."""
REPLACED = 4
"""How often a bundle may be replaced while it is opened."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk. ``open`` has checked its files; with ``verified``, the hash of each, however large."""

    directory: Path
    manifest: Manifest
    verified: bool = False

    @classmethod
    def open(cls, directory: str | Path, kind: str | None = None, verify: bool = False) -> Bundle:
        """Read the manifest and check the size of every file.

        Every file's SHA-256 is checked too if the bundle has fewer than ``ALWAYS_HASH_BELOW`` bytes or with ``verify``.

        Raises:
            BundleError: there is no bundle, it is not of ``kind`` (``draft`` or ``target``), or a file is missing or
                changed.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        if not directory.is_dir():
            raise BundleError(f"no bundle at {directory}; build one with python -m export.build or export.target")
        if not path.exists():
            raise BundleError(f"{directory} has no {MANIFEST}, so it is not a bundle; build it again")
        if not is_unicode(str(directory)):  # ONNX Runtime takes no other paths
            raise BundleError(f"the path {directory} is not UTF-8; rename or move the bundle")
        data = read_object(path, BundleError, "build the bundle again")
        bundle = cls(directory, Manifest.from_mapping(data, path), verify)
        if kind is not None and bundle.manifest.kind != kind:
            raise BundleError(f"{directory} is a {bundle.manifest.kind} bundle where a {kind} is needed; name another")
        bundle._check_files(verify)
        return bundle

    def path(self, file: str) -> Path:
        """Path of a file that the manifest names."""
        return self.directory / file

    def companion(self, name: str) -> Path | None:
        """Path of a file copied from the checkpoint, given its name there, or None if the bundle lacks it.

        The file's name in the bundle has a build id: ``generation_config.json`` is for example
        ``generation_config-0123456789ab.json``.
        """
        stem, suffix = Path(name).stem, Path(name).suffix
        for file in self.manifest.files:
            if file == name or (file.rpartition("-")[0] == stem and Path(file).suffix == suffix):
                return self.path(file)
        return None

    def _check_files(self, verify: bool) -> None:
        manifest, entries = self.manifest, self.manifest.files
        plans = (plan.file for plan in manifest.plans)
        for name in (*manifest.graphs.values(), *plans, manifest.weights, manifest.tokenizer.file):
            if str(name) not in entries:
                raise BundleError(f"{self.path(MANIFEST)} does not list {name}; build the bundle again")
        total = sum(entry.bytes for entry in entries.values())
        for name, entry in entries.items():
            path = self.path(name)
            if Path(name).name != name or not path.is_file():
                raise BundleError(f"{path} is missing from the bundle; build the bundle again")
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(f"{path} has {size} bytes instead of {entry.bytes}; copy or build the bundle again")
        if verify or total < ALWAYS_HASH_BELOW:
            for name, entry in entries.items():
                if file_sha256(self.path(name)) != entry.sha256:
                    raise BundleError(f"{self.path(name)} does not match its hash; copy or build the bundle again")


def load_bundle(directory: str | Path, kind: str, verify: bool, load: Callable[[Bundle], Loaded]) -> Loaded:
    """Open a bundle and ``load`` its files; again where a build has replaced it meanwhile, which takes the old files
    away.

    Raises:
        BundleError: as ``Bundle.open`` and ``load``.
    """
    manifest = Path(directory) / MANIFEST
    for _ in range(REPLACED):
        before = _stamp(manifest)
        try:
            return load(Bundle.open(directory, kind, verify))
        except BundleError:
            if _stamp(manifest) == before:
                raise
    return load(Bundle.open(directory, kind, verify))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; the file is read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_bundle(name: str | Path) -> Path:
    """Directory of a bundle given by its path, or by its name under ``engines/`` with or without ``.engine``.

    Raises:
        BundleError: there is no such directory.
    """
    if len(str(name)) > LONGEST_NAME:
        raise BundleError(f"the bundle's name {str(name)[:40]!r}... has {len(str(name))} characters; name a directory")
    candidates = [Path(name), Path("engines") / name, Path("engines") / f"{name}.engine"]
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError):  # no system has such a name
            if candidate.is_dir():
                return candidate
    built = sorted(path.stem for path in Path("engines").glob("*.engine"))
    remedy = f"built here: {', '.join(built)}" if built else "build one with python -m export.build or export.target"
    raise BundleError(f"no bundle named {name} (looked for {', '.join(map(str, candidates))}); {remedy}")
