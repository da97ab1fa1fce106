"""What the build writes, and who can use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.embedding import build
from s2d_trt.errors import OptionError
from tests.runtime.embedding.programs import PROGRAMS, STRICT

EXAMPLES = build.SHIM.parent / "examples"
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}


@pytest.fixture(scope="module")
def sanitized(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the library under the address sanitizer."""
    out = tmp_path_factory.mktemp("sanitized")
    build.build(out, SANITIZED)
    return out


def test_the_library_exports_the_functions_of_its_header_and_nothing_else(dist: Path) -> None:
    header = (dist / "s2d.h").read_text(encoding="utf-8").splitlines()
    declared = {line.split("(")[0].split()[-1].lstrip("*") for line in header if line.startswith("S2D_API")}
    command = ["nm", "-D", "--defined-only", dist / "libs2d.so"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    exported = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
    assert exported - {"S2D_1"} == declared
    assert len(declared) == 23


def test_every_function_is_documented(dist: Path) -> None:
    lines = (dist / "s2d.h").read_text(encoding="utf-8").splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("S2D_API")]
    assert all(lines[at - 1].endswith("*/") for at in starts)


@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_the_header_is_valid_c(dist: Path, tmp_path: Path, standard: str) -> None:
    (tmp_path / "a.c").write_text("#include <s2d.h>\nint main(void) { return s2d_abi_version(); }\n")
    subprocess.run(["gcc", f"-std={standard}", *STRICT, f"-I{dist}", "-fsyntax-only", tmp_path / "a.c"], check=True)


@pytest.mark.parametrize("standard", ["c++11", "c++17", "c++20"])
def test_the_headers_are_valid_cpp(dist: Path, tmp_path: Path, standard: str) -> None:
    (tmp_path / "a.cpp").write_text("#include <s2d.hpp>\nint main() { return s2d_abi_version(); }\n")
    subprocess.run(["g++", f"-std={standard}", *STRICT, f"-I{dist}", "-fsyntax-only", tmp_path / "a.cpp"], check=True)


def test_the_shim_compiles_without_warnings() -> None:
    command = [*build.compile_command(), *STRICT, "-fsyntax-only", *map(str, sorted(build.SHIM.glob("*.c")))]
    subprocess.run(command, check=True)


def test_the_files_of_the_shim_are_short() -> None:
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 400 for path in build.SHIM.iterdir())


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_queue_between_the_threads_is_clean(tmp_path: Path, sanitizer: str) -> None:
    sources = [PROGRAMS / "queue.c", build.SHIM / "requests.c", build.SHIM / "report.c"]
    flags = [f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=all", "-std=gnu11", *STRICT]
    subprocess.run(["gcc", *flags, f"-I{build.SHIM}", *sources, "-pthread", "-o", tmp_path / "queue"], check=True)
    done = subprocess.run([tmp_path / "queue"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("program", ["steps.c", "refusals.c"])
def test_the_whole_library_is_clean(
    program: str, sanitized: Path, tmp_path: Path, draft_bundle: Path, target_bundle: Path, foreign_draft_bundle: Path
) -> None:
    links = [f"-I{sanitized}", f"-L{sanitized}", f"-Wl,-rpath,{sanitized}", "-ls2d"]
    command = ["gcc", "-std=c99", *SANITIZED, *STRICT, PROGRAMS / program, *links, "-o", tmp_path / "program"]
    subprocess.run(command, check=True)
    third = "the draft proposes" if program == "steps.c" else foreign_draft_bundle
    done = subprocess.run(
        [tmp_path / "program", draft_bundle, target_bundle, third],
        capture_output=True, text=True, check=False, timeout=100,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},  # Python frees little at the end
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_examples_build_with_pkg_config(dist: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "s2d"],
        capture_output=True, text=True, check=True, env={"PKG_CONFIG_PATH": str(dist)},
    ).stdout.split()  # fmt: skip
    subprocess.run(["gcc", "-std=c99", *STRICT, EXAMPLES / "stream.c", *flags, "-o", tmp_path / "stream"], check=True)
    assert subprocess.run([tmp_path / "stream"], capture_output=True, check=False).returncode == 2


def test_examples_build_with_cmake(dist: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    subprocess.run(
        ["cmake", "-S", EXAMPLES, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={dist}"], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    assert subprocess.run([tmp_path / "stream_cpp"], capture_output=True, check=False).returncode == 2


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(OptionError, match="no C compiler no-such-compiler"):
        build.compile_command()


def test_a_python_without_a_shared_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "libpython3.11.a" if name == "INSTSONAME" else "/lib")
    with pytest.raises(OptionError, match="no shared libpython"):
        build.shared_python()


def test_a_library_that_cannot_be_compiled_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("CFLAGS", "-include no-such-file.h")
    with pytest.raises(OptionError, match="cannot be compiled"):
        build.build(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str], dist: Path) -> None:
    build.main(["--out", str(tmp_path / "dist")])
    said = capsys.readouterr().out
    assert "libs2d.so, s2d.h, s2d.hpp" in said
    assert sys.prefix in said
