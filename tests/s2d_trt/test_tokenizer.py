"""The tokenizer's fingerprint: equal exactly where the token ids are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2d_trt.errors import BundleError, CheckpointError, S2DError
from s2d_trt.tokenizer import tokenizer_fingerprint

CONTENT: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 0, "content": "<|endoftext|>"}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel"},
    "post_processor": None,
    "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": []},
}


def fingerprint(folder: Path, indent: int | None = None, **changes: Any) -> str:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(CONTENT | changes, indent=indent), encoding="utf-8")
    return tokenizer_fingerprint(path, CheckpointError)


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": {"max_length": 8}},
        {"padding": {"pad_id": 0}},
        {"post_processor": {"type": "TemplateProcessing"}},
        {"version": "2.0"},
        {"model": dict(reversed(CONTENT["model"].items()))},
    ],
)
def test_what_does_not_decide_ids_does_not_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert fingerprint(tmp_path, indent=2, **changes) == fingerprint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": CONTENT["model"] | {"vocab": {"<|endoftext|>": 0, "b": 1}}},
        {"model": CONTENT["model"] | {"vocab": {"<|endoftext|>": 1, "a": 0}}},
        {"model": CONTENT["model"] | {"merges": ["a a"]}},
        {"added_tokens": []},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_what_decides_ids_counts(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert fingerprint(tmp_path, **changes) != fingerprint(tmp_path)


@pytest.mark.parametrize("error", [CheckpointError, BundleError])
def test_a_missing_file_is_the_callers_kind_of_error(tmp_path: Path, error: type[S2DError]) -> None:
    with pytest.raises(error, match=r"tokenizer\.json cannot be read \(No such file"):
        tokenizer_fingerprint(tmp_path / "tokenizer.json", error)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'"text"', b"\xff"])
def test_another_kind_of_file_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not a tokenizer\.json"):
        tokenizer_fingerprint(path, CheckpointError)
