"""Token shards: token ids in ``.npy`` arrays or raw ``.bin`` files.

A ``.npy`` file holds a one-dimensional array of any integer type. A ``.bin`` file holds little-endian ids without a
header: two bytes each if the vocabulary has at most 65,536 ids, as nanoGPT writes them, else four.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s2d_trt.errors import OptionError
from s2d_trt.training.windows import Stream


def read_shard(path: Path, vocabulary: int) -> Stream:
    """The ids of one file; all of them are counted in the loss.

    Raises:
        OptionError: the file is not a shard, or has a negative id or one that is not below ``vocabulary``.
    """
    try:
        if path.suffix == ".npy":
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            ids = np.memmap(path, "<u2" if vocabulary <= 2**16 else "<u4", mode="r")
    except (OSError, EOFError, ValueError) as cause:
        raise OptionError(f"{path} cannot be read ({cause}); write the shard again") from cause
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise OptionError(f"{path} holds {ids.dtype} of shape {ids.shape}; a shard is one row of integers")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        worst = int(ids.max()) if ids.min() >= 0 else int(ids.min())
        raise OptionError(
            f"{path} has token {worst}, but the vocabulary ends at {vocabulary - 1}; use the draft's own tokenizer"
        )
    return Stream.whole(np.array(ids, dtype=np.int32))
