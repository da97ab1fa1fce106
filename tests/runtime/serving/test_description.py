"""The description against the server, by a tool that nobody here wrote."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_schemathesis_finds_no_answer_that_the_description_does_not_have(server: Any, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install -e '.[dev]'")
    program = shutil.which("st", path=str(Path(sys.executable).parent))
    assert program
    done = subprocess.run(
        [program, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--phases", "fuzzing", "-n", "8",
         "--generation-allow-x00", "false", "--generation-deterministic",
         "--max-time", "8"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
