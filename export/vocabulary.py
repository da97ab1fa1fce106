"""The tokens that a draft's head can give: all, or those that a text uses most.

The head of a large vocabulary is a large part of a draft, and most of its tokens are rarely drafted (FR-Spec,
arXiv 2502.14856). Leaving their rows out changes the draft's tokens, never the target's text.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.tokenizer import load_tokenizer

BYTES = 2**26
"""Of text, past which frequencies hardly change."""


def frequent_tokens(tokenizer: Path, text: Path, count: int, always: tuple[int, ...]) -> tuple[int, ...]:
    """The ``count`` most frequent ids of a file or folder of UTF-8 text, increasing; ``always`` are among them.

    Raises:
        OptionError: there is no text, or it uses fewer tokens than ``count``.
    """
    files = sorted(path for path in text.rglob("*") if path.is_file()) if text.is_dir() else [text]
    counts: Counter[int] = Counter()
    encode, left = load_tokenizer(tokenizer, CheckpointError).encode_batch_fast, BYTES
    for file in files:
        try:
            content = file.read_bytes()[:left].decode("utf-8", errors="ignore")
        except OSError as cause:
            raise OptionError(
                f"--calibration {file} cannot be read ({cause.strerror}); name a text file or a folder"
            ) from cause
        lines = [line for line in content.splitlines(keepends=True) if "\0" not in line]
        for encoding in encode(lines, add_special_tokens=False):
            counts.update(encoding.ids)
        left -= len(content)
        if left <= 0:
            break
    chosen = dict.fromkeys(
        (*always, *(token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))))
    )
    if len(chosen) < count:
        raise OptionError(
            f"--calibration {text} uses {len(chosen)} different tokens, fewer than --head-tokens {count};"
            " give more text"
        )
    return tuple(sorted(list(chosen)[:count]))
