"""The demo's text: what is held out exists and is never trained on; copies and other authors' code are left out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from s2d_trt.errors import OptionError
from s2d_trt.training import sources
from s2d_trt.training.corpus import Files
from s2d_trt.training.sources import HELD_OUT, LIBRARY_HELD_OUT, TRAIN, Package

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
SMALL = Package("accelerate", "accelerate", "Apache-2.0")


@pytest.fixture(scope="module")
def library() -> Files:
    return sources.library()


@pytest.mark.parametrize("pattern", LIBRARY_HELD_OUT)
def test_a_held_out_module_exists_in_this_interpreter(pattern: str) -> None:
    assert any(path.is_file() for path in LIBRARY.glob(pattern))


def test_held_out_modules_are_not_in_the_training_list(library: Files) -> None:
    held_out = {path for pattern in LIBRARY_HELD_OUT for path in LIBRARY.glob(pattern)}
    assert held_out == set(library.held_out)
    assert not held_out & set(library.train)
    assert len(library.train) > 10 * len(library.held_out)


def test_the_library_is_read_without_installed_packages_and_tests(library: Files) -> None:
    names = [path.relative_to(LIBRARY).as_posix() for path in (*library.train, *library.held_out)]
    assert not [name for name in names if name.startswith(("site-packages/", "test/", "encodings/", "ensurepip/"))]


def test_whole_packages_are_held_out() -> None:
    assert not {package.name for package in TRAIN} & {package.name for package in HELD_OUT}
    assert set(sources.held_out_files()) == {"standard library", *(package.distribution for package in HELD_OUT)}


@pytest.mark.parametrize("package", [*TRAIN, *HELD_OUT], ids=lambda package: package.name)
def test_a_package_is_installed_with_the_training_extra_and_named_in_the_notice(package: Package) -> None:
    assert package.folder().is_dir()
    assert package.name not in ("pip", "setuptools")
    notice = (Path(__file__).resolve().parents[3] / "NOTICE").read_text(encoding="utf-8")
    assert package.distribution in notice


def test_a_package_is_read_without_tests_and_vendored_code() -> None:
    names = [path.as_posix() for path in SMALL.files()]
    assert names
    assert not [name for name in names if "test" in name.removeprefix(str(SMALL.folder())) or "vendor" in name]


def test_the_library_is_repeated_and_the_packages_follow(library: Files) -> None:
    files = sources.training_files([SMALL])
    repeated = library.train * sources.LIBRARY_REPEATS
    assert files[: len(repeated)] == repeated
    assert 0 < len(files) - len(repeated) <= len(SMALL.files())


def test_a_missing_package_is_a_user_error() -> None:
    with pytest.raises(OptionError, match="nowhere is missing"):
        Package("nowhere", "nowhere", "none").folder()
