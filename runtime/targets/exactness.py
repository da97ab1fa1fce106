"""Whether a row's bits depend on the call that computes it: found by computing, once for each machine and bundle.

Where they do not, drafting in chains gives the very bits of the target decoding alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from runtime.backends import TargetEngine
from runtime.machine.cache import cache_file, write_cache
from runtime.targets.interface import TargetModel
from runtime.tree.tree import Tree

WIDTHS = (2, 3, 5, 9, 17)
"""Rows that are computed together; each row is compared with itself computed alone."""


def rows_are_exact(target: TargetModel, engine: TargetEngine, progress: Callable[[str], None]) -> bool:
    """Compare the bits of rows computed alone and in calls of several widths, before and after a cache bucket ends.

    ``engine`` is the target's; it is told whether a lone row needs company. Both answers are kept in the user's cache.
    """
    path = cache_file("exactness", target.identity)
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
        engine.needs_company = bool(answers["needs_company"])
        return bool(answers["exact"])
    except (OSError, ValueError, KeyError, TypeError):
        progress("checking that a row's bits do not depend on the call")
    prefixes = [prefix for prefix in (3, 57) if prefix + max(WIDTHS) <= target.max_length]
    exact = all(_rows_agree(target, prefix) for prefix in prefixes or [1])
    write_cache(path, json.dumps({"exact": exact, "needs_company": engine.needs_company}))
    return exact


def _rows_agree(target: TargetModel, prefix: int) -> bool:
    """Behind ``prefix`` tokens, compare every row of each width with the same row computed alone."""
    widths = [width for width in WIDTHS if width <= min(target.max_rows, target.max_length - prefix)]
    tokens = np.random.default_rng(0).integers(0, target.vocab_size, prefix + widths[-1]).tolist()
    together, alone = target.lease(widths[-1]), target.lease(widths[-1])
    try:
        for sequence in (together, alone):
            sequence.prefill(tokens[:prefix])
        expected = []
        for token in tokens[prefix:]:
            expected.append(alone.verify(Tree.chain([token]))[0].copy())
            alone.commit([0])
        for width in widths:
            logits = together.verify(Tree.chain(tokens[prefix : prefix + width]))
            if not all(np.array_equal(logits[row], expected[row]) for row in range(width)):
                return False
    finally:
        target.release(together)
        target.release(alone)
    return True
