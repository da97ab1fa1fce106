"""Where the library finds Python, and what it says where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.embedding.build import PACKAGES
from tests.runtime.embedding.programs import PROGRAMS, Run


def test_without_a_parameter_the_environment_that_built_the_library_is_used(run: Run) -> None:
    said = run("environment.c")
    assert f"of {sys.prefix}, 8 texts at a time" in said
    assert "S2D_OK: \n" in said


def test_a_parameter_names_another_environment(run: Run, tmp_path: Path) -> None:
    link = tmp_path / "environment"
    link.symlink_to(sys.prefix)
    assert f"of {link}, " in run("environment.c", link, PACKAGES)


def test_an_environment_beside_the_library_comes_before_the_one_that_built_it(
    dist: Path, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    shutil.copy(dist / "libs2d.so", tmp_path)
    (tmp_path / "python").symlink_to(sys.prefix)
    done = subprocess.run(
        [compiled(PROGRAMS / "environment.c"), "", PACKAGES],
        capture_output=True, text=True, check=False, timeout=60, env={"LD_LIBRARY_PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stderr == ""
    assert f"of {tmp_path / 'python'}, " in done.stdout


def test_a_folder_that_is_no_environment_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    assert f"S2D_ERROR_PYTHON: {tmp_path} is no Python environment" in run("environment.c", tmp_path)


def test_an_environment_of_another_python_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    assert "is no environment of python3" in run("environment.c", tmp_path)


def test_an_environment_without_the_runtime_is_refused_and_nothing_is_printed(run: Run, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    said = run("environment.c", tmp_path / "bare")
    assert "S2D_ERROR_PYTHON: the environment" in said
    assert "does not hold the runtime" in said


def test_the_hosts_variables_do_not_change_python(run: Run, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    assert "S2D_OK" in run("environment.c", PYTHONPATH=str(tmp_path), PYTHONHOME=str(tmp_path))


@pytest.mark.parametrize("ending", ["assert library.s2d_shutdown() == 0", ""])
def test_a_host_that_runs_python_shares_its_interpreter(
    dist: Path, draft_bundle: Path, target_bundle: Path, ending: str
) -> None:
    program = f"""
import ctypes, sys
library = ctypes.CDLL({str(dist / "libs2d.so")!r})
library.s2d_last_error.restype = ctypes.c_char_p
assert library.s2d_init(None) == 0, library.s2d_last_error()
draft, target, request, step = (ctypes.c_void_p() for _ in range(4))
assert library.s2d_draft_open({str(draft_bundle).encode()!r}, ctypes.byref(draft)) == 0, library.s2d_last_error()
assert library.s2d_target_open({str(target_bundle).encode()!r}, draft, ctypes.byref(target)) == 0
assert "runtime.embedding.bridge" in sys.modules
assert library.s2d_request_create(target, b"a", None, ctypes.byref(request)) == 0
assert library.s2d_request_next(request, -1, ctypes.byref(step)) == 0
print("its output stays its own")
{ending}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "its output stays its own\n")
