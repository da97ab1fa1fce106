"""Files that strangers write are read within limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from s2d_trt.errors import BundleError
from s2d_trt.reading import parse_json, read_bytes, read_object, read_text


def test_json_is_read_as_the_standard_library_reads_it() -> None:
    data = {"a": [1, 2.5, None, True, "é\n"], "b": {"c": []}}
    assert parse_json(json.dumps(data)) == data
    assert parse_json(json.dumps(data, ensure_ascii=False).encode()) == data
    assert parse_json("null") is None
    assert parse_json(r'"\ud83d\ude42"') == "🙂"


@pytest.mark.parametrize("deep", ["[" * 70 + "]" * 70, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_deep_nesting_is_refused(deep: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(deep)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' comes twice"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (r'{"a": "\ud800"}', "half a character"),
        (r'{"\uDC00": 1}', "half a character"),
        ("1" * 5000, "too many digits"),
        ("[1e999]", "1e999 is too large a number"),
    ],
)
def test_what_is_no_plain_json_is_refused_with_the_reason(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "marked.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_object(path, BundleError, "mend it") == {}
    assert read_text(path) == "{}"


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(path)
    with pytest.raises(OSError, match="larger than"):
        read_bytes(tmp_path / "large", most=4)
    assert read_bytes(tmp_path / "large", most=5) == b"12345"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.json", r"missing\.json is missing; mend it"),
        ("x" * 300, "cannot be read .*name too long.*; mend it"),
        ("list.json", r"list\.json is damaged \(it holds no JSON object\); mend it"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_the_remedy(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BundleError, match=message):
        read_object(tmp_path / name, BundleError, "mend it")
