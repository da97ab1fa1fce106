"""The tokenizer's fingerprint: equal exactly where the token ids are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from s2d_trt.errors import BundleError, CheckpointError, S2DError
from s2d_trt.tokenizer import load_tokenizer, tokenizer_fingerprint

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
    with pytest.raises(error, match=r"tokenizer\.json is missing"):
        tokenizer_fingerprint(tmp_path / "tokenizer.json", error)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'"text"', b"\xff"])
def test_another_kind_of_file_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    for read in (tokenizer_fingerprint, load_tokenizer):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            read(path, CheckpointError)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WORKING = CONTENT | {"added_tokens": [], "decoder": None, "pre_tokenizer": BYTES}


def load(folder: Path, **changes: Any) -> Tokenizer:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(WORKING | changes), encoding="utf-8")
    return load_tokenizer(path, CheckpointError)


def test_truncation_and_padding_that_the_file_asks_for_do_not_change_a_prompt(tmp_path: Path) -> None:
    truncation = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    padding |= {"pad_to_multiple_of": None}
    tokenizer = load(tmp_path, truncation=truncation, padding=padding)
    assert tokenizer.encode("aaaa").ids == [1, 1, 1, 1]


def test_a_tokenizer_whose_code_panics_is_an_error_of_the_caller(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    template = [{"SpecialToken": {"id": "nowhere", "type_id": 0}}]
    both = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    processor = {"type": "TemplateProcessing", "single": template, "pair": both, "special_tokens": {}}
    with pytest.raises(CheckpointError, match="cannot be loaded by the tokenizers library"):
        load(tmp_path, post_processor=processor)
    capfd.readouterr()  # the library prints a report of its own


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_tokenizer_that_makes_long_texts_of_short_ones_is_refused(tmp_path: Path, part: str) -> None:
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    steps = {"type": "Sequence", f"{part}s": [doubling] * 40}
    with pytest.raises(CheckpointError, match="very many characters"):
        load(tmp_path, **{part: steps})


def test_a_tokenizer_that_repeats_the_text_without_end_is_refused(tmp_path: Path) -> None:
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    processor = {"type": "TemplateProcessing", "single": [text] * 1000, "pair": [text, other], "special_tokens": {}}
    with pytest.raises(CheckpointError, match="very many characters or tokens"):
        load(tmp_path, post_processor=processor)
