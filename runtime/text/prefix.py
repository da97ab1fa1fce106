"""What two texts have in common, in tokens or in characters."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """Length of the longest common prefix."""
    pairs = zip(ours, theirs, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
