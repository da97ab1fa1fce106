"""What the server is and does, in one place: its targets, its texts, its limits, whether it takes requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.serving.errors import ApiError, bad_request, unavailable
from runtime.serving.observer import Observer, Observers
from runtime.serving.targets import ServedTarget
from runtime.serving.texts import ServedTexts


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for, and how long things may take."""

    max_body: int = 4 * 2**20
    """Bytes of a request's body."""
    max_concurrent: int = 256
    """Requests that are read and answered at a time."""
    body_seconds: float = 30.0
    """Until the head of a request, and then its body, must have come."""
    request_seconds: float | None = 600.0
    """From a request's arrival to the end of its answer; None is no limit."""
    keep_alive_seconds: float = 15.0
    """After so long without a part, a stream gets a comment."""


class ServerState:
    """Shared by all routes. It is ``loading`` until ``ready`` is called, and ``draining`` at the end."""

    def __init__(self, limits: Limits | None = None, observers: Sequence[Observer] = ()) -> None:
        self.limits = limits or Limits()
        self.observer = Observers(observers)
        self.phase: Literal["loading", "ready", "draining"] = "loading"
        self.targets: dict[str, ServedTarget] = {}
        """By name; empty while loading."""
        self._texts: ServedTexts | None = None
        self.active = 0
        """Requests that are read and answered now."""

    @property
    def texts(self) -> ServedTexts:
        """The texts being served. Raises ApiError while there are none to serve."""
        if self._texts is None:
            raise unavailable("the server is loading its targets; ask again later", "loading", seconds=5)
        return self._texts

    @property
    def serves(self) -> bool:
        """Whether the targets are loaded."""
        return self._texts is not None

    def ready(self, targets: Sequence[ServedTarget], texts: ServedTexts) -> None:
        """Take requests from now on."""
        self.targets = {target.name: target for target in targets}
        self._texts = texts
        self.phase = "ready"

    def drain(self) -> None:
        """Take no more texts; those that are there go on."""
        self.phase = "draining"
        if self._texts is not None:
            self._texts.close("the server is about to end; ask another one")

    def target(self, name: str | None) -> ServedTarget:
        """The target that a request names; it may leave that out where there is one. Raises ApiError."""
        if not self.targets:
            raise unavailable("the server is loading its targets; ask again later", "loading", seconds=5)
        if name is None:
            if len(self.targets) > 1:
                raise bad_request(f"model is missing; give one of {', '.join(self.targets)}", "model", "missing_field")
            return next(iter(self.targets.values()))
        if name not in self.targets:
            known = ", ".join(self.targets)
            raise ApiError(404, f"there is no model '{name}'; give one of {known}", "model", "model_not_found")
        return self.targets[name]
