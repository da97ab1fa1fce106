"""From text files to windows: what is read, what is held out, and in which order."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from s2d_trt.errors import OptionError
from s2d_trt.training.corpus import END_OF_TEXT, TextFiles, Windows, held_out_windows, tokenize


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("0.txt", "1.txt", "held/4.txt", "held/0/5.txt", "other/held.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


lengths = st.integers(1, 12)
seeds = st.integers(0, 2**32)


def stream(length: int, extra: int) -> np.ndarray:
    """Every token is its own position, so that a window tells where it was cut."""
    return np.arange(2 * length + 1 + extra, dtype=np.int32)


@given(lengths, st.integers(0, 100), seeds, st.integers(0, 200), st.integers(1, 5), st.integers(0, 200))
def test_a_window_depends_on_seed_and_number_alone(
    length: int, extra: int, seed: int, first: int, count: int, before: int
) -> None:
    tokens = stream(length, extra)
    used = Windows(tokens, length, seed)
    used.batch(before, 3)
    batch = used.batch(first, count)
    assert batch.shape == (count, length + 1)
    assert batch.dtype == np.int64
    for index in range(count):
        assert (Windows(tokens, length, seed).batch(first + index, 1)[0] == batch[index]).all()


@given(lengths, st.integers(0, 100), seeds, st.integers(0, 5))
def test_every_epoch_reads_one_stretch_of_the_stream_once(length: int, extra: int, seed: int, epoch: int) -> None:
    tokens = stream(length, extra)
    windows = Windows(tokens, length, seed)
    batch = windows.batch(epoch * windows.per_epoch, windows.per_epoch)
    predicted = np.sort(batch[:, 1:].ravel())
    assert (np.diff(predicted) == 1).all()
    # What is left out is shorter than two windows: the random offset, and what no window fills.
    assert len(tokens) - len(predicted) <= 2 * length


def test_epochs_differ_in_order_and_cut() -> None:
    windows = Windows(stream(8, 400), 8, seed=0)
    first, second = windows.batch(0, windows.per_epoch), windows.batch(windows.per_epoch, windows.per_epoch)
    assert not np.array_equal(first, second)
    assert not np.array_equal(np.sort(first[:, 0]), np.sort(second[:, 0]))


def test_the_digest_tells_streams_lengths_and_seeds_apart() -> None:
    tokens = stream(4, 50)
    digests = {
        Windows(tokens, 4, 0).digest(),
        Windows(tokens, 4, 1).digest(),
        Windows(tokens, 5, 0).digest(),
        Windows(tokens[:-1], 4, 0).digest(),
        Windows(tokens[::-1].copy(), 4, 0).digest(),
    }
    assert len(digests) == 5
    assert Windows(tokens.copy(), 4, 0).digest() in digests


def test_a_stream_shorter_than_two_windows_is_refused() -> None:
    Windows(np.arange(9, dtype=np.int32), 4, 0)
    with pytest.raises(OptionError, match="has 8 tokens, too few for windows of 4"):
        Windows(np.arange(8, dtype=np.int32), 4, 0)


@given(lengths, st.integers(1, 300), st.integers(1, 20))
def test_held_out_windows_are_disjoint_and_at_most_the_limit(length: int, extra: int, limit: int) -> None:
    tokens = np.arange(length + extra, dtype=np.int32)
    windows = held_out_windows(tokens, length, limit)
    assert 1 <= len(windows) <= limit
    starts = windows[:, 0]
    assert (np.diff(starts) >= length).all()
    assert (windows == starts[:, None] + np.arange(length + 1)).all()


def test_held_out_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(OptionError, match="held out has 8 tokens, too few for a window of 8"):
        held_out_windows(np.arange(8, dtype=np.int32), 8, 4)


def test_held_out_files_are_never_trained_on(texts: Path) -> None:
    files = TextFiles.scan(texts, (".txt",), held_out=("held/*",))
    assert [path.name for path in files.train] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert [path.name for path in files.held_out] == ["4.txt", "5.txt"]


def test_excluded_files_are_in_neither_list(texts: Path) -> None:
    files = TextFiles.scan(texts, (".txt",), exclude=("held/4*", "0*"), held_out=("held/*",))
    assert [path.name for path in (*files.train, *files.held_out)] == ["1.txt", "2.txt", "3.txt", "5.txt"]


@given(st.lists(st.sampled_from(["*", "0*", "held/*", "h*d/*", "*el*", "*.txt", "held/4.txt", "held"]), max_size=3))
def test_skipping_whole_folders_leaves_out_the_same_files_as_matching_each(shared: Path, exclude: list[str]) -> None:
    names = [path.relative_to(shared).as_posix() for path in sorted(shared.rglob("*.txt"))]
    expected = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)]
    if expected:
        found = TextFiles.scan(shared, (".txt",), exclude).train
        assert [path.relative_to(shared).as_posix() for path in found] == expected


def test_only_files_with_the_suffix_are_read(texts: Path) -> None:
    (texts / "picture.bin").write_bytes(b"\x00")
    (texts / "folder.txt").mkdir()
    assert all(path.suffix == ".txt" and path.is_file() for path in TextFiles.scan(texts, (".txt",)).train)


def test_a_missing_folder_and_one_without_text_are_refused(texts: Path) -> None:
    with pytest.raises(OptionError, match="is not a folder"):
        TextFiles.scan(texts / "nowhere", (".txt",))
    with pytest.raises(OptionError, match=r"holds no file ending in \.rst"):
        TextFiles.scan(texts, (".rst",))


@given(text=st.text())
def test_the_tokenizer_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace(END_OF_TEXT, "")
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.decode(encoded.ids[1:], skip_special_tokens=False) == text


def test_every_file_of_the_stream_begins_with_end_of_text(tokenizer: Tokenizer, texts: Path) -> None:
    paths = TextFiles.scan(texts, (".txt",)).train
    tokens = tokenize(tokenizer, paths)
    assert tokens.dtype == np.int32
    assert tokens[0] == 0
    assert np.count_nonzero(tokens == 0) == len(paths)


def test_no_files_give_an_empty_stream(tokenizer: Tokenizer) -> None:
    assert tokenize(tokenizer, ()).shape == (0,)


def test_bytes_that_are_no_utf8_do_not_stop_the_reading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert tokenizer.decode(tokenize(tokenizer, [tmp_path / "latin.txt"])) == "caf\ufffd"
