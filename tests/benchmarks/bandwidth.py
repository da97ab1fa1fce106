"""The memory's limit: decoding a token reads every weight once, so memory bandwidth bounds its speed.

Each thread computes the maximum of its part of an array that is far larger than the CPU's caches. A maximum takes so
little arithmetic that memory is the bottleneck. NumPy releases the interpreter's lock, so the threads run in parallel.
The fastest of several rounds counts, because other work on the machine only makes a round slower.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from s2d_trt.bundle import Bundle

SIZE = 2**30
"""Bytes of the array."""
ROUNDS = 8


def read_bandwidth(threads: int, size: int = SIZE) -> float:
    """Bytes a second that ``threads`` threads read together from an array of ``size`` bytes."""
    numbers = np.ones(size // 4, np.float32)
    parts = np.array_split(numbers, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return numbers.nbytes / best


def bytes_per_token(bundle: Bundle) -> int:
    """Bytes of weights that decoding a token reads: all weights, except an embedding that the head does not share.

    Of such an embedding one row is read, which is not counted.
    """
    manifest = bundle.manifest
    spec, total = manifest.model, manifest.files[manifest.weights].bytes
    # A tied embedding is the head's matrix, except that a quantised head has its own copy.
    shared = spec.tie_word_embeddings and manifest.weight_format == "fp32"
    embedding = 0 if shared else spec.vocab_size * spec.hidden_size * 4
    return total - embedding
