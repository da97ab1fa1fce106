"""Plots as SVG: text stays text, and the same figures give the same file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def drawing(out: Path | IO[str]) -> Iterator[Figure]:
    """A figure to draw in; it is written to ``out`` at the end."""
    # Not pyplot: it looks for a display and keeps every figure in memory.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "s2d-trt", "svg.fonttype": "none"}):
        yield (figure := Figure(figsize=(8, 3.2), layout="constrained"))
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
