"""A target's first start: it writes the cache of reordered weights, however small, and the scores of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.backends.cpu import prepacked
from runtime.backends.placement import Placement
from runtime.targets.target import Target
from s2d_trt.files import write_file


def main(argv: Sequence[str]) -> None:
    """Load the bundle named first, write to the file named second."""
    prepacked.LEAST_BYTES = 0
    target = Target.open(argv[0], Placement(threads=1))
    write_file(Path(argv[1]), target.lease().prefill([5, 9, 7]).tobytes())
