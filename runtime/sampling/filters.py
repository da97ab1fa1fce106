"""Top-k, top-p and min-p: which tokens may be chosen."""

from __future__ import annotations

import numpy as np

from runtime.sampling.options import Sampling

_FIRST_SORTED = 128
"""Tokens that are sorted first for top-p; four times as many while their mass is not enough."""


def kept_tokens(processed: np.ndarray, sampling: Sampling) -> np.ndarray:
    """bool ``[V]``: the tokens of ``softmax(processed / temperature)`` that pass the filters.

    ``processed`` is float32 ``[V]``, the temperature above 0. Of equally probable tokens the smallest ids are kept. The
    vocabulary is never sorted as a whole: that would take longer than everything else about a token.
    """
    kept = np.ones(len(processed), dtype=bool)
    if 0 < sampling.top_k < len(processed):
        kept = _largest(processed, sampling.top_k)
    probabilities = np.exp((processed.astype(np.float64) - processed.max()) / sampling.temperature)
    probabilities *= kept
    if sampling.top_p < 1.0:
        kept = _nucleus(probabilities, sampling.top_p)
    if sampling.min_p > 0.0:
        # The largest probability is exp(0) = 1 before normalisation.
        kept &= probabilities >= sampling.min_p
    possible: np.ndarray = kept & (probabilities > 0)
    return possible


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the ``count`` largest values; of those equal to the last, the first ones."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    kept: np.ndarray = values > least
    kept[np.flatnonzero(values == least)[: count - int(kept.sum())]] = True
    return kept


def _nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Mask of the most probable tokens: each one before which the others' mass is below ``top_p``."""
    wanted, count = top_p * probabilities.sum(), _FIRST_SORTED
    while True:
        count = min(count, len(probabilities))
        candidates = np.flatnonzero(_largest(probabilities, count))
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
        before = np.cumsum(probabilities[order]) - probabilities[order]
        if count == len(probabilities) or before[-1] >= wanted:
            kept = np.zeros(len(probabilities), dtype=bool)
            kept[order[before < wanted]] = True
            return kept
        count *= 4
