"""Whether a row's bits depend on the call that computes it: found by computing, once for each machine and bundle.

Where they do not, drafting in chains gives the very bits of the target decoding alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends import Logits, TargetEngine, lanes_for
from runtime.machine.cache import cache_file, write_cache
from runtime.targets.interface import TargetModel
from runtime.tree.tree import Tree
from s2d_trt.reading import read_json

WIDTHS = (2, 3, 5, 9, 17)
"""Rows that are computed together; each row is compared with itself computed alone."""


def rows_are_exact(target: TargetModel, engine: TargetEngine, progress: Callable[[str], None]) -> bool:
    """Compare the bits of rows computed alone and in calls of several widths, before and after a cache bucket ends.

    ``engine`` is the target's; it is told whether a lone row needs company. Both answers are kept in the user's cache.
    """
    path = cache_file("exactness", target.identity)
    kept = _read(path)
    if "exact" in kept and "needs_company" in kept:
        engine.needs_company = bool(kept["needs_company"])
        return bool(kept["exact"])
    progress("checking that a row's bits do not depend on the call")
    prefixes = [prefix for prefix in (3, 57) if prefix + max(WIDTHS) <= target.max_length]
    exact = all(_rows_agree(target, prefix) for prefix in prefixes or [1])
    write_cache(path, json.dumps({"exact": exact, "needs_company": engine.needs_company}))
    return exact


def exact_lanes(target: TargetModel, texts: int, progress: Callable[[str], None]) -> tuple[int, ...]:
    """Of the numbers of lanes that calls with so many texts have, those in which a text's rows have the bits that they
    have alone. The answer is kept for each number.
    """
    path = cache_file("exactness", target.identity)
    kept = _read(path)
    lanes = kept.get("lanes")
    agree: dict[str, bool] = dict(lanes) if isinstance(lanes, dict) else {}
    while True:
        usable = tuple(count for count in target.lanes if agree.get(str(count), True))
        missing = [count for count in lanes_for(usable, texts) if count > 1 and str(count) not in agree]
        if not missing:
            return usable
        progress("checking that a text's bits do not depend on the other texts of a call")
        # Where a number is not usable, calls have a larger one.
        agree |= {str(count): _lanes_agree(target, count) for count in missing}
        write_cache(path, json.dumps({**kept, "lanes": agree}))


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = read_json(path)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _lanes_agree(target: TargetModel, count: int) -> bool:
    """Compare rows of texts of different lengths, computed in one call, with the same rows computed text by text."""
    rng = np.random.default_rng(count)
    texts = [target.lease(max(WIDTHS)) for _ in range(count)]
    try:
        trees = []
        for number, text in enumerate(texts):
            width = min((1, *WIDTHS)[number % (1 + len(WIDTHS))], target.max_rows, target.max_length // 2)
            length = min(3 + 23 * number, target.max_length - width)
            tokens = rng.integers(0, target.vocab_size, length + width).tolist()
            text.prefill(tokens[:length])
            trees.append(Tree.chain(tokens[length:]))
        parts = list(zip(texts, trees, strict=True))
        together = [_copied(logits, len(tree)) for logits, tree in zip(target.run(parts), trees, strict=True)]
        return all(
            np.array_equal(_copied(target.run([part])[0], len(part[1])), rows)
            for part, rows in zip(parts, together, strict=True)
        )
    finally:
        for text in texts:
            target.release(text)


def _copied(logits: Logits, rows: int) -> np.ndarray:
    return np.array([logits[row] for row in range(rows)])


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
