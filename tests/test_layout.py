"""The house rules: who may import whom, how long a file may be, and that every command explains itself."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("s2d_trt", "export", "runtime")
LONGEST = 400

# Python's own way to say that a module is not installed.
WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(torch=None, transformers=None); "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, also inside functions; ``from a import b`` counts as ``a.b``."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = [*base, node.module] if node.module else base
            yield from (".".join([*origin, alias.name]) for alias in node.names)


def violations(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    """Imports of a forbidden module or of something inside it."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    ]


def is_training(path: Path) -> bool:
    return path.is_relative_to(ROOT / "s2d_trt" / "training")


def commands() -> list[str]:
    """Modules that run as commands; the definition of ``run_command`` and the tests that call it are none."""
    return [
        module_name(path)
        for folder in (*PACKAGES, "tests/benchmarks")
        for path in sources(folder)
        if "\n    run_command(PROG, main)" in path.read_text(encoding="utf-8")
    ]


def test_the_contract_imports_neither_side_nor_a_framework() -> None:
    contract = [path for path in sources("s2d_trt") if not is_training(path)]
    assert contract
    assert not violations(contract, ("export", "runtime", "torch", "transformers", "onnx", "onnxruntime", "numpy"))


def test_training_imports_neither_side() -> None:
    assert not violations([path for path in sources("s2d_trt") if is_training(path)], ("export", "runtime"))


def test_nothing_but_training_imports_training() -> None:
    others = [path for folder in PACKAGES for path in sources(folder) if not is_training(path)]
    assert not violations(others, ("s2d_trt.training",))


def test_export_never_imports_runtime() -> None:
    assert not violations(sources("export"), ("runtime",))


def test_runtime_imports_no_framework_and_not_export() -> None:
    assert not violations(sources("runtime"), ("torch", "transformers", "onnx", "export"))


def test_only_the_server_imports_the_packages_of_the_server() -> None:
    rooms = [ROOT / "runtime" / name for name in ("serving", "scaling", "observability", "serve.py", "observe.py")]
    others = [path for folder in PACKAGES for path in sources(folder) if not any(path.is_relative_to(r) for r in rooms)]
    assert not violations(others, ("starlette", "uvicorn", "prometheus_client", "runtime.serving"))


def test_no_package_imports_the_tests_or_the_benchmarks_beside_them() -> None:
    assert not violations([path for folder in PACKAGES for path in sources(folder)], ("tests",))


def test_a_wheel_holds_the_three_packages_and_no_benchmarks() -> None:
    """``namespaces = false``: a folder without ``__init__.py`` is left out, so every source folder must have one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert settings["packages"]["find"]["namespaces"] is False
    packed = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    folders = {path.parent for folder in PACKAGES for path in sources(folder)}
    assert sorted(packed) == sorted(".".join(path.relative_to(ROOT).parts) for path in folders)
    assert not [name for name in packed if "benchmarks" in name]


def test_imports_inside_functions_and_relative_ones_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "runtime" / "backends" / "imaginary.py"
    path.parent.mkdir(parents=True)
    path.write_text("from . import a\nfrom ..kv import b\ndef f():\n    import torch.nn\n", encoding="utf-8")
    assert sorted(imports(path)) == ["runtime.backends.a", "runtime.kv.b", "torch.nn"]
    assert violations([path], ("torch",)) == ["runtime/backends/imaginary.py imports torch.nn"]


def test_no_source_file_is_longer_than_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in (*PACKAGES, "tests")
        for path in sources(folder)
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


@pytest.mark.parametrize("module", commands())
def test_every_command_explains_itself_without_torch(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


@pytest.mark.parametrize("module", commands())
def test_every_command_answers_a_wrong_option_in_one_line(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, module, "--no-such-option"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("module", ["runtime.machine.byte_products", "export.session"])
def test_onnx_runtime_collects_nothing_about_its_use(tmp_path: Path, module: str) -> None:
    code = f"import {module}, onnxruntime; from runtime.machine import byte_products as b; b.byte_products_overflow()"
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=own, check=True)
    assert not list(tmp_path.iterdir())
