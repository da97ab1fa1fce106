"""Files and directories appear complete or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2d_trt.files import publishing_directory, replacing_file, write_file

ROOT = Path(__file__).parents[2]


class StoppedError(Exception):
    """What ends a block in these tests."""


def write_half_of(path: Path) -> None:
    path.write_text("half")
    raise StoppedError


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_file(path, "grüße")
    assert path.read_bytes() == "grüße".encode()
    write_file(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_text_that_names_a_path_of_any_bytes_can_be_written(tmp_path: Path) -> None:
    write_file(path := tmp_path / "report.md", "read " + os.fsdecode(b"a-\xff.engine"))
    assert path.read_text(encoding="utf-8") == "read a-\\udcff.engine"


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing_file(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(StoppedError), replacing_file(path) as scratch:
        write_half_of(scratch)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing_file(tmp_path / "file"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    directory = tmp_path / "parent" / "made"
    with publishing_directory(directory) as scratch:
        (scratch / "file").write_text("content")
        assert not directory.exists()
    assert (directory / "file").read_text() == "content"
    assert list(directory.parent.iterdir()) == [directory]


def test_a_directory_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with publishing_directory(tmp_path / "made"):
        pass
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("replace", [False, True])
def test_a_directory_that_fails_leaves_what_was_there(tmp_path: Path, replace: bool) -> None:
    directory = tmp_path / "made"
    directory.mkdir()
    (directory / "file").write_text("old")
    with pytest.raises(StoppedError), publishing_directory(directory, replace) as scratch:
        write_half_of(scratch / "file")
    assert (directory / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize(("replace", "kept"), [(False, "first"), (True, "last")])
def test_of_two_that_make_the_same_directory_the_first_wins_unless_it_is_replaced(
    tmp_path: Path, replace: bool, kept: str
) -> None:
    directory = tmp_path / "made"
    with publishing_directory(directory, replace) as one:
        (one / "by").write_text("last")
        with publishing_directory(directory, replace) as other:
            (other / "by").write_text("first")
    assert (directory / "by").read_text() == kept
    assert list(tmp_path.iterdir()) == [directory]


WRITERS = {
    "file": "with replacing_file(path) as scratch: scratch.write_text('half'); os.kill(os.getpid(), 9)",
    "directory": "with publishing_directory(path) as scratch: (scratch / 'half').touch(); os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "made"
    code = f"import os, pathlib; from s2d_trt.files import *; path = pathlib.Path({str(path)!r})\n{WRITERS[kind]}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not path.exists()
    write_file(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    scratch, path = tmp_path / ".made-abc.partial", tmp_path / "made"
    (scratch / "old").mkdir(parents=True)
    (scratch / "old" / "file").touch()
    with publishing_directory(path):
        pass
    assert [item.name for item in path.iterdir()] == ["file"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "file") as scratch:
        scratch.write_text("first")
        write_file(tmp_path / "file", "second")
        assert scratch.read_text() == "first"
    assert (tmp_path / "file").read_text() == "first"


def test_a_name_that_is_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    write_file(tmp_path / ("n" * 255), "content")
    assert (tmp_path / ("n" * 255)).read_text() == "content"
