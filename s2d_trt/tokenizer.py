"""Tokenizers: loading one, and the fingerprint that tells whether two checkpoints share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from s2d_trt.errors import S2DError
from s2d_trt.reading import read_object, read_text, reading

MOST_GROWTH = 256
"""Characters that normalising, or decoding, may make of one; published tokenizers make one to four."""
MOST_TOKENS = 64
"""Tokens of one character, special ones included."""
REMEDY = "copy the model's own tokenizer.json again"


def load_tokenizer(path: Path, error: type[S2DError]) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, without the truncation and padding that the file may ask for.

    Both would change a prompt in silence. They are settings of a training pipeline, not of the model.

    Raises:
        error: the file is missing or damaged, or makes long texts of short ones.
    """
    with reading(path, error, REMEDY):
        text = read_text(path)
    with tokenizer_errors(error, f"{path} cannot be loaded by the tokenizers library"):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        parts = [part for part in (tokenizer.normalizer, tokenizer.decoder) if part is not None]
        growth = max((_growth(json.loads(part.__getstate__())) for part in parts), default=1)
        tokens = 0 if growth > MOST_GROWTH else len(tokenizer.encode("a").ids)
    if growth > MOST_GROWTH or tokens > MOST_TOKENS:
        raise error(f"{path} makes a text of very many characters or tokens of a short one; {REMEDY}")
    return tokenizer


@contextmanager
def tokenizer_errors(error: type[S2DError], what: str) -> Iterator[None]:
    """Raise what the tokenizers library raises in the block as ``error``; where its Rust code panics, that is no
    Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as cause:
        raise error(f"{what} ({cause}); {REMEDY}") from cause


def tokenizer_fingerprint(path: Path, error: type[S2DError]) -> str:
    """SHA-256 of the parts of ``tokenizer.json`` that decide token ids: model, added tokens, normalizer, pre-tokenizer.

    Padding, truncation, the post-processor and the formatting of the file have no influence.

    Raises:
        error: the file is missing or is not a ``tokenizer.json``.
    """
    content = read_object(path, error, REMEDY)
    if "model" not in content:
        raise error(f"{path} is not a tokenizer.json of the tokenizers library; {REMEDY}")
    parts = [content["model"], content.get("added_tokens"), content.get("normalizer"), content.get("pre_tokenizer")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _growth(part: Any) -> int:
    """Most characters that the steps of a normalizer or decoder, one after another, make of one."""
    growth = 1
    for name in ("content", "prepend"):
        if isinstance(text := part.get(name), str):
            growth *= max(1, len(text))
    for step in (*part.get("normalizers", ()), *part.get("decoders", ())):
        growth *= _growth(step)
    return growth
