"""Reading files that strangers write: their kind, size and encoding are checked, and the form of JSON."""

from __future__ import annotations

import errno
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from s2d_trt.errors import S2DError

MOST_BYTES = 2**28
"""Of a file that is read as a whole. Published tokenizers have up to 40 MB."""
BLOCK = 2**20
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
DIGITS = 64
"""Of a whole number; seeds have up to 20, and configs of tokenizers have 31 for a length without a limit."""
DEEPEST = 64
"""Levels of nested JSON. Tokenizers and configs have about ten."""


def read_bytes(path: Path, most: int = MOST_BYTES, pipes: bool = False) -> bytes:
    """The content of a regular file of at most ``most`` bytes; with ``pipes`` also of one that the shell made.

    Raises:
        OSError: it is larger or of another kind, or it cannot be read.
    """
    # A named pipe without a writer would block, and a device may never end.
    shell = pipes and str(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin"))
    if not shell and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        return read_stream(file, most)


def read_stream(file: BinaryIO, most: int = MOST_BYTES) -> bytes:
    """All that a file has, at most ``most`` bytes. Raises OSError."""
    content = bytearray()
    while block := file.read(BLOCK):
        content += block
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB", str(file.name))
    return bytes(content)


def read_text(path: Path, most: int = MOST_BYTES, pipes: bool = False) -> str:
    """The text of a file in UTF-8; a byte order mark is skipped.

    Raises:
        OSError: as ``read_bytes``. ValueError: it is not UTF-8.
    """
    return decoded(read_bytes(path, most, pipes))


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The JSON in a regular file.

    Raises:
        OSError: as ``read_bytes``. ValueError: it is no JSON in UTF-8, or as ``parse_json``.
    """
    return parse_json(read_bytes(path, most))


@contextmanager
def reading(path: Path, error: type[S2DError], remedy: str) -> Iterator[None]:
    """Raise what is wrong with a file that the block reads as an ``error`` that names it and the ``remedy``."""
    try:
        yield
    except FileNotFoundError:
        raise error(f"{path} is missing; {remedy}") from None
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror or cause}); {remedy}") from cause
    except ValueError as cause:
        raise error(f"{path} is damaged ({cause}); {remedy}") from cause


def read_object(path: Path, error: type[S2DError], remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises ``error`` as ``reading`` does."""
    with reading(path, error, remedy):
        data = read_json(path)
        if not isinstance(data, dict):
            raise ValueError("it holds no JSON object")
    return data


def parse_json(content: str | bytes) -> Any:
    """JSON to Python objects.

    Raises:
        ValueError: it is no JSON, it is nested deeper than ``DEEPEST``, an object names a key twice, or a number is
            NaN, infinite or longer than ``DIGITS``.
    """
    text = content if isinstance(content, str) else decoded(content)
    too_deep = f"it is nested deeper than {DEEPEST} levels"
    try:
        data = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
        )
    except RecursionError:
        raise ValueError(too_deep) from None
    except json.JSONDecodeError as cause:
        raise ValueError(f"it is not JSON: {cause}") from None
    if _is_deep(data):
        raise ValueError(too_deep)
    if SURROGATE.search(text):
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half a character") from None
    return data


def decoded(content: bytes) -> str:
    """UTF-8 to text; a byte order mark is skipped. Raises ValueError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise ValueError(f"it is not UTF-8 at byte {cause.start}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} comes twice")
    return found


def _int(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"{text[:20]}... has too many digits")
    return int(text)


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(data: Any) -> Iterable[Any]:
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [child for child in inside if isinstance(child, (dict, list))]


def is_unicode(text: str) -> bool:
    """Whether ``text`` has no lone surrogate, which Python makes of bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
