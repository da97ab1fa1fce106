"""How fast this machine reads memory: the limit of decoding one token at a time, which reads every weight once.

Each thread takes the maximum over its own part of an array far larger than the caches, over and over; a maximum is
the cheapest thing that can be done with a number read, so that the memory is what is waited for. NumPy lets the
threads run at once. The fastest of the rounds counts: whatever else runs on the machine can only take from it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from s2d_trt.bundle import Bundle

SIZE = 2**30
ROUNDS = 8


def read_bandwidth(threads: int, size: int = SIZE) -> float:
    """Bytes a second that ``threads`` threads read together."""
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
    """Weights that decoding a token reads: all of them, but of an embedding table of its own one row alone."""
    manifest = bundle.manifest
    spec, total = manifest.model, manifest.files[manifest.weights].bytes
    # A tied table is the head too, but for a quantised head, which is a copy.
    shared = spec.tie_word_embeddings and manifest.weight_format == "fp32"
    table = 0 if shared else spec.vocab_size * spec.hidden_size * 4
    return total - table
