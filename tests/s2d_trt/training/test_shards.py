"""Token shards: ids as they were written, or one line that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2d_trt.errors import OptionError
from s2d_trt.training.shards import read_shard


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "i4", "i8"])
def test_an_array_of_any_integer_type_is_read(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([3, 0, 99], kind))
    stream = read_shard(tmp_path / "a.npy", 100)
    assert stream.ids.dtype == np.int32
    assert stream.ids.tolist() == [3, 0, 99]
    assert stream.counted.all()


@pytest.mark.parametrize(("vocabulary", "kind"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_raw_ids_have_two_bytes_or_four_by_the_vocabulary(vocabulary: int, kind: str, tmp_path: Path) -> None:
    ids = [0, 7, vocabulary - 1]
    (tmp_path / "a.bin").write_bytes(np.array(ids, kind).tobytes())
    assert read_shard(tmp_path / "a.bin", vocabulary).ids.tolist() == ids


BAD = {
    "an id beyond the vocabulary": (np.array([0, 100]), "has token 100, but the vocabulary ends at 99"),
    "a negative id": (np.array([5, -1]), "has token -1, but the vocabulary ends at 99"),
    "fractions": (np.array([0.5]), "holds float64 of shape (1,); a shard is one row of integers"),
    "truth values": (np.array([True]), "holds bool of shape (1,)"),
    "a table": (np.zeros((2, 3), np.int64), "holds int64 of shape (2, 3)"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_an_array_of_something_else_is_refused(mistake: str, tmp_path: Path) -> None:
    content, message = BAD[mistake]
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(OptionError) as error:
        read_shard(tmp_path / "a.npy", 100)
    assert str(error.value).startswith(str(tmp_path / "a.npy"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.npy", b""), ("a.npy", b"\x93NUMPY cut"), ("a.bin", b""), ("a.bin", b"odd")]
)
def test_a_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match="cannot be read"):
        read_shard(tmp_path / name, 100)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(OptionError, match="cannot be read"):
        read_shard(tmp_path / "a.npy", 100)
