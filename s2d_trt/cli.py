"""Option types and error handling that all commands share."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from s2d_trt.bundle import ALWAYS_HASH_BELOW
from s2d_trt.errors import OptionError, S2DError

MOST = 2**31 - 1
"""Largest whole number that an option takes."""


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that prints ``description`` as it is and adds ``--debug``."""

    def __init__(self, description: str, prog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2, as for any other mistake of the user."""
        self.exit(2, f"{one_line(f'{self.prog}: {message}')} (see --help)\n")


def add_verify_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--verify``, for commands that load bundles: the ``verify`` of ``Bundle.open``."""
    size = byte_size(ALWAYS_HASH_BELOW)
    parser.add_argument(
        "--verify", action="store_true", help=f"check the hash of every file (always done for bundles below {size})"
    )


def comma_ints(text: str) -> tuple[int, ...]:
    """``"6,9,12"`` -> ``(6, 9, 12)``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 6,9,12") from None


def comma_floats(text: str) -> tuple[float, ...]:
    """``"0.5,0.5,0"`` -> ``(0.5, 0.5, 0.0)``."""
    try:
        return tuple(map(number, text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.5,0.5,0") from None


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1 and at most {MOST}")
    return value


def check_exits(exits: Sequence[int], layers: int) -> tuple[int, ...]:
    """Return ``exits`` if they are increasing layer counts from 1 to ``layers``; else raise OptionError."""
    exits = tuple(exits)
    if not exits or exits[0] < 1 or any(b <= a for a, b in itertools.pairwise(exits)):
        raise OptionError(f"exits {_join(exits)} must be increasing and start at 1 or above, like 6,9,12")
    if exits[-1] > layers:
        raise OptionError(f"exit {exits[-1]} lies beyond the checkpoint's {layers} layers; use exits up to {layers}")
    return exits


def _join(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)


def byte_size(size: int) -> str:
    """A size in bytes as text: in GiB from 1 GiB on, else in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def one_line(message: str) -> str:
    """A message without line breaks, and without characters that a terminal would act on."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in " ".join(message.split())
    )


def run_command(prog: str, main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Run ``main`` and exit with its code, or 0 if it returns None.

    An S2DError is printed as one line on stderr and exits with 2 (with ``--debug`` it is raised); so is an error of the
    operating system or a lack of memory, which no program can mend. Ctrl-C exits with 130. If the reader of stdout
    closed the pipe, the exit code is 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        code = main(arguments) or 0
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(0)
    except (S2DError, OSError, MemoryError) as error:
        if isinstance(error, OSError):
            _drop_output()
        if "--debug" in arguments:
            raise
        print(one_line(f"{prog}: {_said(error)}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        sys.exit(130)


def _said(error: Exception) -> str:
    """The line for an error; one of the operating system has at least a name and a reason."""
    if isinstance(error, S2DError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({error or 'of this process'}); use a smaller model, or a machine with more"
    what = error.filename if isinstance(error, OSError) and error.filename is not None else "the output"
    return f"{what} cannot be read or written ({getattr(error, 'strerror', None) or error}); mend or name another"


def _open_streams() -> None:
    """A closed stream is one that takes and gives nothing; what a stream's encoding lacks is written as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let Python's last flush of stdout have somewhere to go."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stream without a file, in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
