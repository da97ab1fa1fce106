"""A cache of weights in the order in which this processor's kernels read them.

ONNX Runtime reorders the weights of every session that it opens, which takes seconds for a large model and makes a
private copy in each process. Here it writes them once, and later sessions map the file and share it. The cache takes
twice the size of the weights. It fits one processor and one version of the library, so it is in the user's cache
directory and never part of a bundle.

A seal lists the files with their hashes, and with the times and inodes that they had then. While those are the same, a
start trusts the files, as it trusts a large bundle; ``--verify`` hashes them.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort

from runtime.machine.cache import cache_directory
from runtime.machine.processor import processor_identity
from s2d_trt.bundle import Bundle, file_sha256
from s2d_trt.files import publishing_directory, remove_leftovers, write_file
from s2d_trt.reading import read_json

LEAST_BYTES = 2**25
"""Smaller weights are not cached: a copy in each session takes little memory and no longer than opening a cache."""
ROOM = 4
"""Free space that a new cache needs, in sizes of the weights; it takes two of them."""
MODEL, WEIGHTS, SEAL = "model.onnx", "weights.bin", "seal.json"
SOURCE = "bundle.txt"
"""Says whose weights they are, so that the cache of a bundle that is gone can go too."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file's SHA-256, and its size, time of change in nanoseconds and inode when that was computed."""

    sha256: str
    stamp: tuple[int, int, int]


class PrepackedWeights:
    """The cached form of one graph of a bundle. No failure is an error: the session then reorders its weights itself.

    ``form`` is a text that differs where a session's options change the form of the weights.
    """

    def __init__(self, bundle: Bundle, graph: str, form: str) -> None:
        manifest = bundle.manifest
        self._verify = bundle.verified
        self._bytes = manifest.files[manifest.weights].bytes
        files = [manifest.files[name].sha256 for name in (manifest.graphs[graph], manifest.weights)]
        key = hashlib.sha256("\n".join((ort.__version__, processor_identity(), form, *files)).encode()).hexdigest()[:16]
        self._bundle = str(bundle.directory.resolve())
        self._source = hashlib.sha256(os.fsencode(self._bundle)).hexdigest()[:16]
        self._folder = cache_directory() / "prepacked" / f"{manifest.name}-{graph}-{self._source}"
        self.directory = self._folder / key

    def session(self, path: Path, make_options: Callable[[], ort.SessionOptions]) -> ort.InferenceSession:
        """A session of the graph at ``path``, from the cache; where there is none yet, it is written first."""
        if self._is_intact():
            with contextlib.suppress(OSError):  # one that cannot be written is read all the same
                remove_leftovers(self.directory)
            with contextlib.suppress(Exception):  # a damaged cache is no fault of the bundle
                return _opened(self.directory / MODEL, make_options())
        shutil.rmtree(self.directory, ignore_errors=True)
        if not self._has_room():
            return _opened(path, make_options())
        with contextlib.suppress(OSError):
            with publishing_directory(self.directory) as scratch:
                options = make_options()
                options.optimized_model_filepath = str(scratch / MODEL)
                for name, value in (
                    ("optimized_model_external_initializers_file_name", WEIGHTS),
                    ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
                    ("save_external_prepacked_constant_initializers", "1"),
                ):
                    options.add_session_config_entry(f"session.{name}", value)
                # This session keeps weights of its own in memory; one opened from the cache shares them.
                _opened(path, options)
                self._share(scratch / WEIGHTS)
                write_file(scratch / SEAL, json.dumps(_sealed(scratch)))
                write_file(scratch / SOURCE, os.fsencode(self._bundle))
            self._remove_useless()
            return _opened(self.directory / MODEL, make_options())
        return _opened(path, make_options())

    def _is_intact(self) -> bool:
        """Whether the files are those that were written; they are hashed if they may have been written since."""
        try:
            seal = msgspec.convert(read_json(self.directory / SEAL), dict[str, SealedFile])
            stamps = {name: _stamp(self.directory / name) for name in (MODEL, WEIGHTS)}
        except (OSError, ValueError):
            return False
        if not self._verify and stamps == {name: file.stamp for name, file in seal.items()}:
            return True
        return all(file_sha256(self.directory / name) == seal[name].sha256 for name in stamps if name in seal)

    def _share(self, weights: Path) -> None:
        """Make the weights one file with those of another graph of the bundle, where both are the same bytes: a graph
        for several lanes reads the weights of the graph for one.
        """
        for other in self._folder.parent.glob(f"*-{self._source}/*/{WEIGHTS}"):
            if other.stat().st_size == weights.stat().st_size and filecmp.cmp(other, weights, shallow=False):
                weights.unlink()
                weights.hardlink_to(other)
                return

    def _remove_useless(self) -> None:
        """Remove what this cache replaces, and the caches of bundles that are gone."""
        for older in self._folder.glob("[!.]*"):
            if older != self.directory:
                shutil.rmtree(older, ignore_errors=True)
        for source in self._folder.parent.glob(f"*/*/{SOURCE}"):
            with contextlib.suppress(OSError):  # another process removes it too
                if not Path(os.fsdecode(source.read_bytes())).exists():
                    shutil.rmtree(source.parents[1], ignore_errors=True)

    def _has_room(self) -> bool:
        """Whether the weights are large enough for a cache, and the disk for both."""
        if self._bytes < LEAST_BYTES:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self._folder).free >= ROOM * self._bytes
        except OSError:
            return False


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _sealed(folder: Path) -> dict[str, Any]:
    return {name: asdict(SealedFile(file_sha256(folder / name), _stamp(folder / name))) for name in (MODEL, WEIGHTS)}


def _opened(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
