"""What every command shares: argument types, and one line instead of a traceback."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from s2d_trt.errors import OptionError, S2DError


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose module docstring is its help text; it adds ``--debug``."""

    def __init__(self, description: str, prog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """One line, so that a wrong option reads like every other mistake."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def comma_ints(text: str) -> tuple[int, ...]:
    """``"6,9,12"`` -> ``(6, 9, 12)``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 6,9,12") from None


def comma_floats(text: str) -> tuple[float, ...]:
    """``"0.5,0.5,0"`` -> ``(0.5, 0.5, 0.0)``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.5,0.5,0") from None


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def check_exits(exits: Sequence[int], layers: int) -> tuple[int, ...]:
    """Exits are increasing layer counts, none above ``layers``."""
    exits = tuple(exits)
    if not exits or exits[0] < 1 or any(b <= a for a, b in itertools.pairwise(exits)):
        raise OptionError(f"exits {_join(exits)} must be increasing and start at 1 or above, like 6,9,12")
    if exits[-1] > layers:
        raise OptionError(f"exit {exits[-1]} lies beyond the checkpoint's {layers} layers; use exits up to {layers}")
    return exits


def _join(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)


def byte_size(size: int) -> str:
    """A number of bytes for people: in GiB, or below that in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def run_command(prog: str, main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Run ``main``; a user's mistake becomes one line on stderr and exit code 2.

    Ctrl-C exits with 130, a reader that closed the pipe with 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(main(arguments) or 0)
    except S2DError as error:
        if "--debug" in arguments:
            raise
        message = " ".join(str(error).split())
        print(f"{prog}: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
