"""Build the C library: libs2d.so, its headers for C and C++, and what CMake and pkg-config need.

The library runs the same decoder inside the host's process. It links the shared libpython of this Python, and at run
time uses the environment that a host names, the folder `python` beside the library, or else this one.

  python -m runtime.embedding.build --out dist
  cc -std=c99 program.c $(PKG_CONFIG_PATH=dist pkg-config --cflags --libs s2d) -o program

The compiler is $CC or cc; $CFLAGS and $LDFLAGS are added.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import s2d_trt
from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.files import write_file

PROG = "python -m runtime.embedding.build"
SHIM = Path(__file__).parent / "shim"
PACKAGES = Path(__file__).resolve().parents[2]
LIBRARY = "libs2d.so"
_COPIED = ("s2d.h", "s2d.hpp")
_TEMPLATES = ("s2d.pc", "s2d-config.cmake", "s2d-config-version.cmake")
_EXPORTED = "S2D_1 { global: s2d_*; local: *; };\n"
_PREAMBLE = """
#include "shim.h"
static int cffi_start_python(void);
int native_start(void) { return cffi_start_python(); }
"""
_ON_START = "from s2d_native import ffi, lib\nfrom runtime.embedding.bridge import attach\nattach(ffi, lib)\n"


def main(argv: Sequence[str]) -> None:
    """Build into a folder."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder to write to (%(default)s)")
    arguments = parser.parse_args(argv)
    build(arguments.out)
    print(f"wrote    {', '.join([LIBRARY, *_COPIED, *_TEMPLATES])} in {arguments.out}")
    print(f"python   {sys.prefix}, {shared_python()}")


def build(out: Path, flags: Sequence[str] = ()) -> Path:
    """Build the library into ``out``; its path. ``flags`` are added to the compiler's.

    Raises:
        OptionError: there is no compiler, no cffi, no Python.h or no shared libpython, or compiling failed.
    """
    command = compile_command(flags)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_glue(work / "s2d_native.c")
        (work / "exported.map").write_text(_EXPORTED, encoding="utf-8")
        made = work / LIBRARY
        sources = [*sorted(SHIM.glob("*.c")), work / "s2d_native.c"]
        version_script = f"-Wl,--version-script={work / 'exported.map'}"
        _run([*command, "-o", str(made), *map(str, sources), version_script, *link_flags()])
        write_file(out / LIBRARY, made.read_bytes())
    (out / LIBRARY).chmod(0o755)
    for name in _COPIED:
        write_file(out / name, (SHIM / name).read_bytes())
    for name in _TEMPLATES:
        text = (SHIM / f"{name}.in").read_text(encoding="utf-8")
        write_file(out / name, text.replace("@VERSION@", s2d_trt.__version__))
    return out / LIBRARY


def compile_command(flags: Sequence[str] = ()) -> list[str]:
    """The compiler and its flags. Raises OptionError."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise OptionError(f"no C compiler {compiler[0]}; install gcc or clang, or name one in CC")
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise OptionError(f"{include} has no Python.h; install Python's headers (Debian: python3-dev)")
    places = {"S2D_ENVIRONMENT": sys.prefix, "S2D_PACKAGES": str(PACKAGES)}
    defines = [f'-D{name}="{place}"' for name, place in places.items()]
    base = ["-std=gnu11", "-O2", "-g1", "-fPIC", "-shared", "-pthread", f"-I{include}", f"-I{SHIM}"]
    return [*compiler, *base, *defines, *flags, *shlex.split(os.environ.get("CFLAGS", ""))]


def link_flags() -> list[str]:
    """Link libpython, which is looked for beside the library first."""
    python = shared_python()
    places = [f"-Wl,-rpath,{place}" for place in ("$ORIGIN/python/lib", str(python.parent))]
    # An interpreter cannot be unloaded.
    return [
        str(python), *places, "-ldl", f"-Wl,-soname,{LIBRARY}", "-Wl,-z,nodelete",
        *shlex.split(os.environ.get("LDFLAGS", "")),
    ]  # fmt: skip


def shared_python() -> Path:
    """The libpython of this Python. Raises OptionError where it has none."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
    folders += [f"{folder}/{sysconfig.get_config_var('MULTIARCH')}" for folder in folders]
    for folder in folders:
        if ".so" in name and (Path(folder) / name).exists():
            return Path(folder) / name
    raise OptionError(
        "this Python has no shared libpython; take one configured with --enable-shared (Debian: libpython3-dev)"
    )


def write_glue(path: Path) -> None:
    """The C file that connects the shim with ``runtime.embedding.bridge``. Raises OptionError without cffi."""
    try:
        from cffi import FFI
    except ImportError as cause:
        raise OptionError("cffi is not installed; install the extra [embed]") from cause
    header = (SHIM / "s2d.h").read_text(encoding="utf-8")
    shim = (SHIM / "shim.h").read_text(encoding="utf-8")
    types = header.split("/* ---- types ---- */")[1].split("/* ---- functions ---- */")[0]
    buffer = re.findall(r"^typedef struct \w+ \{.*?^\} \w+;$", shim, re.MULTILINE | re.DOTALL)
    ffi = FFI()
    ffi.cdef("\n".join([types, *buffer, *_prototypes(shim, "host_")]))
    ffi.embedding_api("\n".join(_prototypes(shim, "python_")))
    ffi.set_source("s2d_native", _PREAMBLE)
    ffi.embedding_init_code(_ON_START)
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        ffi.emit_c_code(str(path))


def _prototypes(source: str, prefix: str) -> list[str]:
    return re.findall(rf"^(?:int|void) {prefix}\w+\([^;]*\);", source, re.MULTILINE)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"{command[0]} returned {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise OptionError(f"the library cannot be compiled: {first}; see that CC, CFLAGS and LDFLAGS are right")


if __name__ == "__main__":
    run_command(PROG, main)
