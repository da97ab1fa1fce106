"""Programs of tests, and how strictly they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
STRICT = ["-O1", "-g", "-pedantic", "-Wall", "-Wextra", "-Werror"]

Run = Callable[..., str]
"""Compiles and runs a program; what it prints."""
