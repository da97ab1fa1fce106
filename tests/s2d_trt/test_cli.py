"""What every command shares: argument types, the exits rule, and one line instead of a traceback."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_trt.bundle import ALWAYS_HASH_BELOW
from s2d_trt.cli import (
    ArgumentParser,
    add_verify_option,
    byte_size,
    check_exits,
    comma_floats,
    comma_ints,
    number,
    positive_int,
    run_command,
)
from s2d_trt.errors import CapacityError, OptionError, S2DError


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] = ()) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_command("prog", main, argv)
    return int(exit_.value.code or 0)


def test_verify_is_an_option_that_states_from_which_size_on_it_matters() -> None:
    parser = ArgumentParser("", "prog")
    add_verify_option(parser)
    assert not parser.parse_args([]).verify
    assert parser.parse_args(["--verify"]).verify
    assert byte_size(ALWAYS_HASH_BELOW) in parser.format_help()


@given(st.lists(st.integers(), min_size=1))
def test_comma_ints_reads_what_was_joined(values: list[int]) -> None:
    assert comma_ints(",".join(map(str, values))) == tuple(values)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_comma_floats_reads_what_was_joined(values: list[float]) -> None:
    assert comma_floats(",".join(map(repr, values))) == tuple(values)


@pytest.mark.parametrize("parse", [comma_ints, comma_floats])
@pytest.mark.parametrize("text", ["", "1,", "a", "1;2"])
def test_what_is_no_list_of_numbers_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a list of"):
        parse(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "many", ""])
def test_a_number_is_finite(text: str) -> None:
    assert number("-1e-3") == -0.001
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
        number(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "10000000000"])
def test_a_positive_int_is_at_least_one(text: str) -> None:
    assert positive_int("1") == 1
    with pytest.raises(argparse.ArgumentTypeError):
        positive_int(text)


@given(st.sets(st.integers(1, 40), min_size=1))
def test_increasing_exits_up_to_the_last_layer_are_accepted(exits: set[int]) -> None:
    assert check_exits(sorted(exits), 40) == tuple(sorted(exits))


@pytest.mark.parametrize("exits", [(), (0, 6), (-1,), (6, 6), (9, 6), (6, 12, 9)])
def test_exits_that_do_not_increase_from_one_are_refused(exits: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="must be increasing"):
        check_exits(exits, 12)


def test_an_exit_beyond_the_layers_is_refused_with_the_number_of_layers() -> None:
    with pytest.raises(OptionError, match="exit 13 lies beyond"):
        check_exits((6, 13), 12)


def test_success_exits_with_zero_and_a_result_with_its_number() -> None:
    assert run(lambda argv: None) == 0
    assert run(lambda argv: 3) == 3


def test_main_gets_the_arguments() -> None:
    seen: list[str] = []
    run(lambda argv: seen.extend(argv), ["--a", "b"])
    assert seen == ["--a", "b"]


@pytest.mark.parametrize("kind", [S2DError, OptionError, CapacityError])
def test_a_users_mistake_is_one_line_and_exit_code_2(kind: type[S2DError], capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: Sequence[str]) -> None:
        raise kind("the cause;\n  the remedy")

    assert run(main) == 2
    assert capsys.readouterr().err == "prog: the cause; the remedy\n"


def test_debug_shows_the_error_itself() -> None:
    def main(_argv: Sequence[str]) -> None:
        raise OptionError("wrong")

    with pytest.raises(OptionError, match="wrong"):
        run_command("prog", main, ["--debug"])


def test_a_bug_is_not_disguised_as_a_users_mistake() -> None:
    def main(_argv: Sequence[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("prog", main, [])


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert run(main) == 130
    assert capsys.readouterr().err.strip() == "prog: interrupted"


def test_a_wrong_option_is_one_line_that_points_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        ArgumentParser("What it does.", "prog").parse_args(["--wrong"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "prog: unrecognized arguments: --wrong (see --help)\n"


def test_help_is_the_description_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        ArgumentParser("What it does.\n\n  an   example\n", "prog").parse_args(["--help"])
    assert exit_.value.code == 0
    assert "What it does.\n\n  an   example\n" in capsys.readouterr().out


def test_an_abbreviated_option_is_not_guessed() -> None:
    with pytest.raises(SystemExit):
        ArgumentParser("", "prog").parse_args(["--deb"])


def test_no_character_of_a_message_is_one_that_a_terminal_acts_on(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> None:
        raise OptionError("a name\x1b[31m with\nescapes\x07 and é")

    assert run(main) == 2
    assert capsys.readouterr().err == "prog: a name\\x1b[31m with escapes\\x07 and é\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/some/file"), "/some/file cannot be read or written (Permission"),
        (OSError(28, "No space left on device"), "the output cannot be read or written (No space left"),
        (MemoryError("Unable to allocate 179 TiB"), "there is not enough memory (Unable to allocate 179 TiB)"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_operating_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    def main(argv: Sequence[str]) -> None:
        raise error

    assert run(main) == 2
    assert message in capsys.readouterr().err


SAYING = """
import sys
from s2d_trt.cli import run_command
def main(argv):
    assert sys.stdin.read() == ""
    print("gr\\u00fc\\u00dfe" * 9)
run_command("prog", main)
"""


@pytest.mark.parametrize(
    ("shell", "code", "out", "err"),
    [
        ("<&-", 0, "grüße", ""),
        ("<&- >&-", 0, "", ""),
        ("</dev/null >/dev/full", 2, "", "prog: the output cannot be read or written (No space left on device)"),
    ],
)
def test_closed_and_full_streams_are_no_traceback(shell: str, code: int, out: str, err: str) -> None:
    done = _shell(shell, {"PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout.decode()[:5]) == (code, out)
    assert done.stderr.decode()[: len(err)] == err
    assert done.stderr.count(b"\n") == (1 if err else 0)


def test_what_the_terminal_cannot_show_is_written_as_an_escape() -> None:
    done = _shell("</dev/null", {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout[:11]) == (0, b"gr\\xfc\\xdfe")


def _shell(streams: str, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    command = f"exec {sys.executable} -c '{SAYING}' {streams}"
    root = Path(__file__).parents[2]
    return subprocess.run(["sh", "-c", command], capture_output=True, env={"PYTHONPATH": str(root)} | environment)
