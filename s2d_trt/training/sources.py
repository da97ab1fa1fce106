"""The demo's text: Python sources that every machine with the training extra has.

They are the standard library of the running interpreter and packages that the extra itself installs, chosen by their
licences, which NOTICE names. Some modules of the library and some whole packages are held out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from s2d_trt.errors import OptionError
from s2d_trt.training.corpus import Files, drop_copies

LIBRARY_HELD_OUT = (
    "argparse.py", "bisect.py", "concurrent/futures/*.py", "configparser.py", "csv.py", "dataclasses.py",
    "email/header.py", "fractions.py", "graphlib.py", "heapq.py", "http/cookies.py", "json/*.py",
    "logging/handlers.py", "plistlib.py", "queue.py", "sched.py", "selectors.py", "shlex.py", "statistics.py",
    "tempfile.py", "textwrap.py", "tomllib/*.py", "wsgiref/*.py", "xmlrpc/*.py", "zipapp.py",
)  # fmt: skip
"""Modules of the standard library (3.11 and later) that are held out from training."""

LIBRARY_EXCLUDE = (
    "site-packages/*", "dist-packages/*", "*test*", "encodings/*", "lib2to3/*", "pydoc_data/*", "config-*/*",
    "ensurepip/*",
)  # fmt: skip
"""Installed packages, tests and generated tables, which are no part of the training text."""

PACKAGE_EXCLUDE = ("*test*", "*vendor*", "*_antlr*", "*unicodedata*", "*third_party*")
"""Tests, code with other authors' licences, and generated tables."""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: the name it is imported by, that of its distribution, and its licence."""

    name: str
    distribution: str
    licence: str

    def folder(self) -> Path:
        """Where it is installed; it is not imported. Raises OptionError if it is missing."""
        spec = importlib.util.find_spec(self.name)
        if spec is None or not spec.submodule_search_locations:
            raise OptionError(f"{self.name} is missing: pip install -e '.[train]' in the checkout")
        return Path(spec.submodule_search_locations[0])

    def files(self) -> tuple[Path, ...]:
        """Its Python sources, sorted."""
        return Files.scan(self.folder(), (".py",), PACKAGE_EXCLUDE).train

    def __str__(self) -> str:
        return f"{self.distribution} {importlib.metadata.version(self.distribution)} ({self.licence})"


TRAIN = (
    Package("accelerate", "accelerate", "Apache-2.0"),
    Package("fontTools", "fonttools", "MIT"),
    Package("huggingface_hub", "huggingface_hub", "Apache-2.0"),
    Package("matplotlib", "matplotlib", "Matplotlib licence"),
    Package("networkx", "networkx", "BSD-3-Clause"),
    Package("numpy", "numpy", "BSD-3-Clause"),
    Package("sympy", "sympy", "BSD-3-Clause"),
    Package("torch", "torch", "BSD-3-Clause"),
    Package("transformers", "transformers", "Apache-2.0"),
)
HELD_OUT = (
    Package("fsspec", "fsspec", "BSD-3-Clause"),
    Package("jinja2", "jinja2", "BSD-3-Clause"),
    Package("mpmath", "mpmath", "BSD-3-Clause"),
)
LIBRARY_REPEATS = 6
"""How often the standard library is read for each time that the much larger packages are."""


def library(folder: Path | None = None) -> Files:
    """The source files of the standard library, or of ``folder``, split into training and held-out files."""
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    return Files.scan(folder, (".py",), LIBRARY_EXCLUDE, LIBRARY_HELD_OUT)


def training_files(packages: Iterable[Package] = TRAIN) -> tuple[Path, ...]:
    """The library, ``LIBRARY_REPEATS`` times, then the packages without files that mostly repeat others."""
    return library().train * LIBRARY_REPEATS + drop_copies(path for package in packages for path in package.files())


def held_out_files() -> dict[str, tuple[Path, ...]]:
    """What is held out, by category."""
    return {"standard library": library().held_out, **{package.distribution: package.files() for package in HELD_OUT}}


def digest(tokenizer: Tokenizer) -> str:
    """A short name for the training text as this tokenizer sees it."""
    return hashlib.sha256(f"{describe()} {tokenizer.to_str()}".encode()).hexdigest()[:12]


def describe() -> str:
    """Names, versions and licences of all that is trained on."""
    python = f"CPython {platform.python_version()}'s standard library (PSF-2.0)"
    return ", ".join([python, *map(str, TRAIN)])
