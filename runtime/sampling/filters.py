"""Top-k, top-p and min-p: which tokens may be chosen."""

from __future__ import annotations

import numpy as np

from runtime.sampling.options import Sampling


def kept_tokens(processed: np.ndarray, sampling: Sampling) -> np.ndarray:
    """bool ``[V]``: the tokens of ``softmax(processed / temperature)`` that pass the filters.

    ``processed`` is float32 ``[V]``, the temperature above 0. Of equally probable tokens the smallest ids are kept.
    The vocabulary is not sorted as a whole: that would take longer than everything else about a token.
    """
    ids: np.ndarray | slice = slice(None)
    if 0 < sampling.top_k < len(processed):
        ids = largest(processed, sampling.top_k)
    # The largest probability is exp(0) = 1 before normalisation.
    probabilities = np.exp((processed[ids].astype(np.float64) - processed.max()) / sampling.temperature)
    possible = probabilities > 0
    if sampling.top_p < 1.0:
        possible &= _nucleus(probabilities, sampling.top_p)
    if sampling.min_p > 0.0:
        possible &= probabilities >= sampling.min_p
    kept = np.zeros(len(processed), dtype=bool)
    kept[ids] = possible
    return kept


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` largest values, rising; of those equal to the last, the first ones."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def _nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Mask of the most probable tokens: each one before which the others' mass is below ``top_p``."""
    total = probabilities.sum()
    # Tokens that are all below this hold less than 1 - top_p together, so the nucleus is without them.
    least = (1.0 - top_p) * total / len(probabilities)
    candidates = np.flatnonzero(probabilities >= least)
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros(len(probabilities), dtype=bool)
    kept[order[before < top_p * total]] = True
    return kept
