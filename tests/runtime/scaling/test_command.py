"""The command's mistakes are one line, before a cluster is started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from runtime.scaling.__main__ import PROG, main
from s2d_trt.cli import run_command


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run_command(PROG, main, arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_server_option_that_is_wrong_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sequences" in said(capsys, "--", "--target", "a", "--sequences", "0")
    assert "--target" in said(capsys)


def test_a_bundle_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in said(capsys, "--", "--target", "nowhere", "--draft", "none")


def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target_bundle: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = str(other.getsockname()[1])
    line = said(capsys, "--port", free, "--", "--target", str(target_bundle), "--draft", "none")
    assert "ray is not installed; pip install" in line


def test_a_port_in_use_is_refused(capsys: pytest.CaptureFixture[str], target_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = said(capsys, "--port", port, "--", "--target", str(target_bundle), "--draft", "none")
    assert "choose another --host or --port" in line
