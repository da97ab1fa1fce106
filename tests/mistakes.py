"""What a command answers to a user's mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from s2d_trt.cli import run_command


def mistake(
    capsys: pytest.CaptureFixture[str], prog: str, main: Callable[[Sequence[str]], object], argv: Sequence[str]
) -> str:
    """The one line that a mistaken call prints; it prints nothing else and ends with 2."""
    with pytest.raises(SystemExit) as ended:
        run_command(prog, main, argv)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"{prog}: ")
    assert captured.err.endswith("\n")
    assert len(captured.err.splitlines()) == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err
