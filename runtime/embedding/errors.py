"""Which status of ``s2d.h`` says what went wrong."""

from __future__ import annotations

from s2d_trt.errors import BundleError, CapacityError, CheckpointError, OptionError, S2DError, TokenizerMismatchError


class BufferTooSmallError(S2DError):
    """The host's buffer does not hold the result; the length needed was written."""


_STATUS: dict[type[BaseException], str] = {
    TokenizerMismatchError: "S2D_ERROR_MISMATCH",
    CapacityError: "S2D_ERROR_CAPACITY",
    BufferTooSmallError: "S2D_ERROR_BUFFER",
    BundleError: "S2D_ERROR_BUNDLE",
    CheckpointError: "S2D_ERROR_BUNDLE",
    OptionError: "S2D_ERROR_ARGUMENT",
    UnicodeDecodeError: "S2D_ERROR_ARGUMENT",
    MemoryError: "S2D_ERROR_MEMORY",
}


def status_name(error: BaseException) -> str:
    """The name of the status that ``error`` becomes."""
    return next((name for kind, name in _STATUS.items() if isinstance(error, kind)), "S2D_ERROR_INTERNAL")


def is_fault(error: BaseException) -> bool:
    """Whether ``error`` is one of an engine or of the library, so that its traceback is of use."""
    return not isinstance(error, (S2DError, UnicodeDecodeError, MemoryError))


def error_line(error: BaseException) -> str:
    """What was wrong, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8 (byte {error.start}); convert it"
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line}" if is_fault(error) else line
