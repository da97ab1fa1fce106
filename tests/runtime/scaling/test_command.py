"""The command's mistakes are one line, before a cluster is started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from runtime import serve
from runtime.scaling.__main__ import PROG, main
from tests.mistakes import mistake


def test_a_server_option_that_is_wrong_is_refused_by_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sequences" in mistake(capsys, serve.PROG, main, ["--", "--target", "a", "--sequences", "0"])
    assert "--target" in mistake(capsys, serve.PROG, main, [])


def test_a_bundle_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in mistake(capsys, PROG, main, ["--", "--target", "nowhere", "--draft", "none"])


def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target_bundle: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = str(other.getsockname()[1])
    line = mistake(capsys, PROG, main, ["--port", free, "--", "--target", str(target_bundle), "--draft", "none"])
    assert "ray is not installed; pip install" in line


def test_a_port_in_use_is_refused(capsys: pytest.CaptureFixture[str], target_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = mistake(capsys, PROG, main, ["--port", port, "--", "--target", str(target_bundle), "--draft", "none"])
    assert "choose another --host or --port" in line
