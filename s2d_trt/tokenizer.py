"""The fingerprint that tells whether two checkpoints share a tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from s2d_trt.errors import S2DError


def tokenizer_fingerprint(path: Path, error: type[S2DError]) -> str:
    """SHA-256 of the parts of ``tokenizer.json`` that decide token ids: model, added tokens, normalizer, pre-tokenizer.

    Padding, truncation, the post-processor and the formatting of the file have no influence.

    Raises:
        error: the file is missing or is not a ``tokenizer.json``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [content["model"], content.get("added_tokens"), content.get("normalizer"), content.get("pre_tokenizer")]
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); copy the tokenizer.json again") from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise error(f"{path} is not a tokenizer.json of the tokenizers library; copy it again") from cause
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
