"""The C side as Python sees it: cffi's two objects, and the host's log."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from runtime.embedding.errors import BufferTooSmallError, is_fault, status_name

INFO, ERROR = 0, 2


@dataclass(frozen=True, slots=True)
class Native:
    """``ffi`` makes C values, ``lib`` has the functions and constants of ``shim/shim.h``."""

    ffi: Any
    lib: Any

    def text(self, pointer: Any) -> str | None:
        """A C string, or None for NULL. Raises UnicodeDecodeError."""
        return self.ffi.string(pointer).decode() if pointer else None

    def required(self, pointer: Any) -> str:
        """A C string that the shim has found not to be NULL."""
        return self.text(pointer) or ""

    def strings(self, pointers: Any, count: int) -> tuple[str, ...]:
        """An array of C strings."""
        return tuple(self.required(pointers[at]) for at in range(count))

    def array(self, kind: str, values: Any) -> Any:
        """A C array; it lives as long as the object."""
        return self.ffi.new(f"{kind}[]", values)

    def fill(self, buffer: Any, text: str) -> None:
        """Write a text into the host's buffer. Raises BufferTooSmallError."""
        data = text.encode(errors="replace") + b"\0"
        buffer.length = len(data) - 1
        if len(data) > buffer.capacity:
            raise BufferTooSmallError(f"the text needs a buffer of {len(data)} bytes, this one has {buffer.capacity}")
        self.ffi.memmove(buffer.data, data, len(data))

    def status(self, error: BaseException) -> int:
        """The status that an error becomes. The log gets the traceback of a fault."""
        if is_fault(error):
            self.log(ERROR, "".join(traceback.format_exception(error)).rstrip())
        return int(getattr(self.lib, status_name(error)))

    def log(self, level: int, message: str) -> None:
        """Tell the host."""
        self.lib.host_log(level, message.encode(errors="replace"))


class LogWriter:
    """Stands in for ``sys.stdout`` and ``sys.stderr``: what Python prints goes to the host's log, line by line."""

    encoding = "utf-8"

    def __init__(self, native: Native) -> None:
        self._native, self._rest = native, ""

    def write(self, text: str) -> int:
        """Log the lines that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line:
                self._native.log(INFO, line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits but an incomplete line."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False
