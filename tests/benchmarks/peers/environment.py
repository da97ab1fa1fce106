"""A virtual environment for each peer: made once, in the user's cache, from pinned packages of the package index."""

from __future__ import annotations

import hashlib
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from s2d_trt.files import publishing_directory
from tests.benchmarks.internals import cache_directory
from tests.benchmarks.peers.process import PeerError, run_to_end


@dataclass(frozen=True, slots=True)
class Environment:
    """``requirements`` are pip's, pinned, so that two runs compare the same things."""

    name: str
    requirements: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Another set of packages is another directory."""
        digest = hashlib.sha256("\n".join((sys.version, *self.requirements)).encode()).hexdigest()
        return cache_directory() / "peers" / f"{self.name}-{digest[:12]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    def install(self) -> None:
        """Make it, unless it is there. Raises PeerError, and leaves nothing half-installed."""
        if self.python.exists():
            return
        print(f"installing {', '.join(self.requirements)}", file=sys.stderr, flush=True)
        try:
            # A virtual environment keeps its path in its scripts, but python and python -m find it where it is.
            with publishing_directory(self.directory) as scratch:
                venv.create(scratch, with_pip=True, symlinks=True)
                run_to_end([str(scratch / "bin" / "python"), "-m", "pip", "install", "--quiet", *self.requirements])
        except PeerError as cause:
            raise PeerError(f"{self.name} cannot be installed ({cause})") from cause


TORCH = "torch==2.13.0"
TRANSFORMERS = Environment("transformers", (TORCH, "transformers==5.23.0", "accelerate==1.15.0"))
ONNXRUNTIME_GENAI = Environment(
    "onnxruntime-genai",
    ("onnxruntime-genai==0.18.0", TORCH, "transformers==5.23.0", "onnx==1.23.2", "onnx-ir==1.1.0"),
)
OPENVINO_GENAI = Environment(
    "openvino-genai", ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0", TORCH)
)
