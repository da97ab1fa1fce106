"""Texts of a target and its draft, one line of tokens each; it begins when a line comes on stdin.

python -m tests.benchmarks.faults.texts TARGET DRAFT HOW_MANY
"""

from __future__ import annotations

import json
import sys

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder


def main(target: str, draft: str, texts: str) -> None:
    """Every second text is sampled; each has its own seed."""
    sys.stdin.readline()
    decoder = Decoder.open(target, draft, Placement(threads=2))
    for seed in range(int(texts)):
        request = decoder.request([5, 9, 7], max_new_tokens=64, temperature=seed % 2, seed=seed, ignore_eos=True)
        tokens = [token for step in decoder.run(request) for token in step.tokens]
        print(json.dumps([tokens, request.stats.total > 0]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
