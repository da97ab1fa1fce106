"""What an application of replicas is told, by the command or by a file of ``serve run``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class Settings:
    """``serve`` has the options of ``python -m runtime.serve``; ``metrics`` is a folder in which replicas tell
    Prometheus of themselves. Raises OptionError.
    """

    serve: tuple[str, ...]
    replicas: int = 2
    ingresses: int = 1
    cpus: float = 1.0
    """That Ray counts for a replica."""
    max_queued: int = 64
    """Calls that wait at an ingress while all replicas have ``--sequences`` + ``--max-queue`` of them."""
    metrics: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"replicas": 1, "ingresses": 1, "max_queued": 1, "cpus": 0}
        if below := [name for name in least if getattr(self, name) < least[name]]:
            raise OptionError(f"{below[0]} is {getattr(self, below[0])}; give at least {least[below[0]]}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From a file, where ``serve`` may be one text. Raises OptionError."""
        known = [field.name for field in fields(cls)]
        if unknown := given.keys() - set(known):
            raise OptionError(f"setting {min(unknown)} is unknown; the settings are {', '.join(known)}")
        serve = given.get("serve", "")
        return cls(**{**given, "serve": tuple(shlex.split(serve) if isinstance(serve, str) else map(str, serve))})
