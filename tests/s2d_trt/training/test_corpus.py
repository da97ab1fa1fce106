"""Files of text: what is read, what is held out, and how it is tokenized."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from s2d_trt.errors import OptionError
from s2d_trt.training.corpus import END_OF_TEXT, Files, cached, drop_copies, tokenize


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("0.txt", "1.txt", "held/4.txt", "held/0/5.txt", "other/held.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def test_held_out_files_are_never_trained_on(texts: Path) -> None:
    files = Files.scan(texts, (".txt",), held_out=("held/*",))
    assert [path.name for path in files.train] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert [path.name for path in files.held_out] == ["4.txt", "5.txt"]


def test_excluded_files_are_in_neither_list(texts: Path) -> None:
    files = Files.scan(texts, (".txt",), exclude=("held/4*", "0*"), held_out=("held/*",))
    assert [path.name for path in (*files.train, *files.held_out)] == ["1.txt", "2.txt", "3.txt", "5.txt"]


@given(st.lists(st.sampled_from(["*", "0*", "held/*", "h*d/*", "*el*", "*.txt", "held/4.txt", "held"]), max_size=3))
def test_skipping_whole_folders_leaves_out_the_same_files_as_matching_each(shared: Path, exclude: list[str]) -> None:
    names = [path.relative_to(shared).as_posix() for path in sorted(shared.rglob("*.txt"))]
    expected = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)]
    if expected:
        found = Files.scan(shared, (".txt",), exclude).train
        assert [path.relative_to(shared).as_posix() for path in found] == expected


def test_only_files_with_the_suffix_are_read(texts: Path) -> None:
    (texts / "picture.bin").write_bytes(b"\x00")
    (texts / "folder.txt").mkdir()
    assert all(path.suffix == ".txt" and path.is_file() for path in Files.scan(texts, (".txt",)).train)


def test_a_file_alone_is_trained_on_whatever_its_ending(texts: Path) -> None:
    assert Files.scan(texts / "0.txt", (".rst",)) == Files((texts / "0.txt",), ())


def test_a_missing_folder_and_one_without_text_are_refused(texts: Path) -> None:
    with pytest.raises(OptionError, match="is not a folder or a file"):
        Files.scan(texts / "nowhere", (".txt",))
    with pytest.raises(OptionError, match=r"holds no file ending in \.rst"):
        Files.scan(texts, (".rst",))


@given(text=st.text())
def test_the_tokenizer_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace(END_OF_TEXT, "")
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.decode(encoded.ids[1:], skip_special_tokens=False) == text


def test_every_file_of_the_stream_begins_with_end_of_text(tokenizer: Tokenizer, texts: Path) -> None:
    paths = Files.scan(texts, (".txt",)).train
    tokens = tokenize(tokenizer, paths)
    assert tokens.dtype == np.int32
    assert tokens[0] == 0
    assert np.count_nonzero(tokens == 0) == len(paths)


def test_no_files_give_an_empty_stream(tokenizer: Tokenizer) -> None:
    assert tokenize(tokenizer, ()).shape == (0,)


def test_bytes_that_are_no_utf8_do_not_stop_the_reading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert tokenizer.decode(tokenize(tokenizer, [tmp_path / "latin.txt"])) == "caf\ufffd"


def test_files_that_mostly_repeat_others_and_very_large_ones_are_left_out(tmp_path: Path) -> None:
    lines = [f"this is line number {number} of the first file" for number in range(40)]
    new = [f"this is another line, number {number}" for number in range(40)]
    texts = {"a": lines, "copy": lines[:-4], "half": lines[:10] + new, "large": new * 100}
    for name, text in texts.items():
        (tmp_path / name).write_text("\n".join(text), encoding="utf-8")
    kept = drop_copies((tmp_path / name for name in texts), largest=5000)
    assert [path.name for path in kept] == ["a", "half"]


def test_an_array_is_made_once(tmp_path: Path) -> None:
    made = [cached(tmp_path / "x.npy", lambda: np.arange(3)), cached(tmp_path / "x.npy", lambda: np.arange(4))]
    assert [len(array) for array in made] == [3, 3]


def test_a_damaged_array_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(OptionError, match="delete it to make it again"):
        cached(tmp_path / "x.npy", lambda: np.arange(3))
