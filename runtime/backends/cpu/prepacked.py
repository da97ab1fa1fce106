"""Weights in the order in which this processor's kernels read them, kept from one start to the next.

ONNX Runtime reorders the weights of every session that it opens: seconds for a large model, and a private copy in each
process. What it wrote once is mapped instead, and shared. It is for this processor and this version alone: a cache in
the user's directory, twice as large as the weights, never part of a bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

import onnxruntime as ort

from runtime.machine.cache import cache_directory
from runtime.machine.processor import processor_identity
from s2d_trt.bundle import Bundle

LEAST_BYTES = 2**28
"""Weights below this are reordered in less time than it takes to look."""
ROOM = 4
"""Free space that there must be, in sizes of the weights: the cache takes two, and is no reason to fill a disk."""
MODEL, WEIGHTS = "model.onnx", "weights.bin"


class PrepackedWeights:
    """The cached form of one graph of a bundle; never an error: without it every start reorders again.

    ``form`` is text that differs where a session's options change what it writes.
    """

    def __init__(self, bundle: Bundle, graph: str, form: str) -> None:
        manifest = bundle.manifest
        self._bytes = manifest.files[manifest.weights].bytes
        files = [manifest.files[name].sha256 for name in (manifest.graphs[graph], manifest.weights)]
        key = hashlib.sha256("\n".join((ort.__version__, processor_identity(), form, *files)).encode()).hexdigest()[:16]
        place = hashlib.sha256(str(bundle.directory.resolve()).encode()).hexdigest()[:16]
        self._folder = cache_directory() / "prepacked" / f"{manifest.name}-{graph}-{place}"
        self.directory = self._folder / key

    def session(self, path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        """A session of the graph at ``path``, from the cache where it is there; else it is made on the way."""
        if self.directory.is_dir():
            try:
                return _opened(self.directory / MODEL, options)
            except Exception:  # whatever is wrong with a cache, the bundle itself is right
                shutil.rmtree(self.directory, ignore_errors=True)
        scratch = self._scratch()
        if scratch is None:
            return _opened(path, options)
        try:
            options.optimized_model_filepath = str(scratch / MODEL)
            for name, value in (
                ("optimized_model_external_initializers_file_name", WEIGHTS),
                ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
                ("save_external_prepacked_constant_initializers", "1"),
            ):
                options.add_session_config_entry(f"session.{name}", value)
            session = _opened(path, options)
            self._publish(scratch)
            return session
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _scratch(self) -> Path | None:
        """Where to write; None where it does not pay or there is no room."""
        if self._bytes < LEAST_BYTES:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < ROOM * self._bytes:
                return None
            return Path(tempfile.mkdtemp(prefix=".partial-", dir=self._folder))
        except OSError:
            return None

    def _publish(self, scratch: Path) -> None:
        """Of several starts at once, the first to finish is kept; forms of older builds go."""
        older = [path for path in self._folder.iterdir() if path != self.directory and not path.name.startswith(".")]
        with contextlib.suppress(OSError):
            scratch.rename(self.directory)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)


def _opened(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
