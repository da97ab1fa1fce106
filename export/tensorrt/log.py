"""The messages of a TensorRT builder: errors, sizes and progress."""

from __future__ import annotations

import re
import sys
from typing import Any

LEVELS = ("none", "error", "warning", "info", "verbose")
"""Levels that a user can ask for; the builder's severities are 1 (error) to 4 (verbose), and 0 for internal errors."""

_SIZES = re.compile(r"Total (Weights|Activation) Memory: (\d+) bytes")


class BuildLog:
    """Collects the messages of one build."""

    def __init__(self, graph: str, level: str, progress: bool) -> None:
        self._graph, self._level, self._progress = graph, LEVELS.index(level), progress
        self._errors: list[str] = []
        self._sizes: dict[str, int] = {}
        self._shown = 0

    @property
    def reason(self) -> str:
        """The builder's first error."""
        return self._errors[0] if self._errors else "no reason given"

    @property
    def out_of_memory(self) -> bool:
        """Whether an error is about memory; one reads "temporarily unavailable" where a thread got no stack."""
        signs = r"out ?of ?memory|bad_alloc|allocat|temporarily unavailable"
        return any(re.search(signs, error, re.IGNORECASE) for error in self._errors)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the device; 0 where the builder does not say."""
        return self._sizes.get("Weights", 0)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the largest profile's activations on the device; 0 where the builder does not say."""
        return self._sizes.get("Activation", 0)

    def message(self, severity: int, text: str) -> None:
        """Take one message."""
        if severity <= 1:
            self._errors.append(" ".join(text.split()))
        for kind, size in _SIZES.findall(text):
            self._sizes[kind] = max(self._sizes.get(kind, 0), int(size))
        if max(severity, 1) <= self._level:
            self._write(f"{self._graph}: {text}\n")

    def phase(self, name: str, step: int, steps: int) -> None:
        """Show the progress of a phase on a terminal."""
        if self._progress:
            line = f"compile  {self._graph}: {name} {step}/{steps}"
            self._write(f"\r{line:<{self._shown}}")
            self._shown = len(line)

    def close(self) -> None:
        """Clear the progress line."""
        if self._shown:
            self._write(f"\r{'':<{self._shown}}\r")

    def logger(self, trt: Any) -> Any:
        """An ``ILogger`` that writes to this log."""
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                log.message(int(severity), text)

        return Logger()

    def monitor(self, trt: Any) -> Any:
        """An ``IProgressMonitor`` that writes to this log."""
        log = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.steps: dict[str, int] = {}

            def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
                self.steps[name] = steps

            def step_complete(self, name: str, step: int) -> bool:
                log.phase(name, step + 1, self.steps[name])
                return True

            def phase_finish(self, name: str) -> None:
                pass

        return Monitor()

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
