"""Run files: everything that was measured of a cell, in plain JSON.

While a cell is measured, each unit of work is a line of a journal beside it, on disk before the next begins. A killed
run goes on behind the last whole line: nothing is lost but the unit that was under way, and nothing is measured twice.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from runtime.evaluation.matrix.plan import PRECISION
from runtime.evaluation.matrix.schema import RunFile, Together, Turn
from runtime.machine.processor import physical_cores, processor_identity
from s2d_trt import __version__
from s2d_trt.errors import OptionError
from s2d_trt.files import write_file
from s2d_trt.reading import parse_json, read_object

SCHEMA = 1
ENVIRONMENT = "environment"
KEYS = {"schema", "settings", "environment", "skipped", "units"}


@dataclass(slots=True)
class Run:
    """A measured cell: its settings, where it was measured, and its units in the order of their keys.

    ``skipped`` counts, by category, the turns that did not fit the target.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    units: list[dict[str, Any]]
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The cell in words."""
        s = self.settings
        target, draft = (Path(s[part].replace(PRECISION, s["precision"])).name for part in ("target", "draft"))
        return f"{target} + {draft}, T {s['temperature']:g}, {s['policy']}, {s['texts']} at a time"

    @property
    def cell(self) -> tuple[Any, ...]:
        """What identifies the combination across runs, whatever was changed in between."""
        s = self.settings
        return Path(s["target"]).name, Path(s["draft"]).name, s["precision"], s["temperature"], s["policy"], s["texts"]

    def write(self, path: Path) -> None:
        """Write the run file. Raises OptionError where it cannot be written."""
        data = {
            "schema": SCHEMA,
            "settings": self.settings,
            "environment": self.environment,
            "skipped": self.skipped,
            "units": self.units,
        }
        try:
            write_file(path, json.dumps(data, indent=1) + "\n")
        except OSError as cause:
            raise unwritable(path, cause) from cause

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a run file. Raises OptionError where it is torn or none."""
        data = read_object(path, OptionError, "delete it and measure again, or name another")
        if data.keys() != KEYS or data["schema"] != SCHEMA:
            raise OptionError(f"{path} is no run file of this version; delete it and measure again")
        try:
            msgspec.convert(data, RunFile)
            unit: Any = Turn if data["settings"]["texts"] == 1 else Together
            msgspec.convert(data["units"], list[unit])
        except msgspec.ValidationError as cause:
            raise OptionError(f"{path} is no run file ({cause}); delete it and measure again") from cause
        return cls(data["settings"], data["environment"], data["units"], data["skipped"])


def read_runs(path: Path) -> list[Run]:
    """A run file, or all of a folder. Raises OptionError."""
    if not path.exists():
        raise OptionError(f"{path} does not exist; name a run file or a folder of them")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise OptionError(f"{path} holds no run files; measure with a matrix first")
    return [Run.read(file) for file in files]


class Journal:
    """Units of a cell that is being measured, a line each."""

    def __init__(self, path: Path) -> None:
        self.path, self.units = path, dict[str, dict[str, Any]]()
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as cause:
            raise unwritable(path, cause) from cause
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                unit = parse_json(line)
                self.units[unit["key"]] = unit
            except (ValueError, KeyError, TypeError):
                raise OptionError(f"{path} is damaged; delete it and measure again") from None
        if whole < len(content):  # the line that was being written when the process was killed
            with path.open("r+b") as file:
                file.truncate(whole)

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The units, without the line that says where they were measured."""
        return [unit for key, unit in self.units.items() if key != ENVIRONMENT]

    def in_environment(self, environment: dict[str, Any]) -> dict[str, Any]:
        """Note where the units are measured; a journal that has it keeps its own. Raises OptionError where the bundles
        have changed since.
        """
        if ENVIRONMENT not in self.units:
            self.add({"key": ENVIRONMENT, **environment})
        kept = {name: value for name, value in self.units[ENVIRONMENT].items() if name != "key"}
        if kept["bundles"] != environment["bundles"]:
            raise OptionError(f"{self.path} was measured with other bundles; name another folder")
        return kept

    def add(self, unit: dict[str, Any]) -> None:
        """Put a unit on disk. Raises OptionError where that fails; what was added before stays."""
        line = json.dumps(unit).encode() + b"\n"
        try:
            before = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, before)
                raise
        except OSError as cause:
            raise unwritable(self.path, cause) from cause
        self.units[unit["key"]] = unit


def unwritable(path: Path, cause: OSError) -> OptionError:
    """What to say where a result cannot be kept."""
    return OptionError(f"{path} cannot be written ({cause.strerror}); free space or name another folder, then go on")


def environment(bundles: Mapping[str, str]) -> dict[str, Any]:
    """Machine, versions and revision; ``bundles`` are hashes of manifests by name."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: found for name in ("numpy", "onnxruntime", "tokenizers") if (found := _version(name))},
        "system": platform.platform(),
        "processor": processor_identity().splitlines()[0],
        "cores": physical_cores(),
        "bundles": dict(bundles),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit that this code is from, with a + where it was changed; None outside a repository."""
    here = Path(__file__).parent
    try:
        done = [
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return done[0].strip() + "+" * bool(done[1].strip())
