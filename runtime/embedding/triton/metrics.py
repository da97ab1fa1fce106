"""The model's own metrics, on Triton's metrics page: its own count every request as a success, also cancelled ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import triton_python_backend_utils as pb_utils

from runtime.decoding.request import FinishReason, Request, Step


class Metrics:
    """Families with the label ``model``, the target's name."""

    def __init__(self, targets: Iterable[str]) -> None:
        self._families = {
            "requests": _counter("s2d_requests_total", "Texts that have ended"),
            "prompt_tokens": _counter("s2d_prompt_tokens_total", "Tokens of the prompts of texts that left the queue"),
            "tokens": _counter("s2d_generated_tokens_total", "Tokens that texts gained"),
            "accepted": _counter("s2d_accepted_tokens_total", "Drafted tokens that the target accepted"),
            "waiting": _gauge("s2d_requests_waiting", "Texts that wait for their turn"),
            "running": _gauge("s2d_requests_running", "Texts that are generated"),
        }
        self._targets = {name: TargetMetrics(self._families, name) for name in targets}

    def of(self, target: str) -> TargetMetrics:
        """Those of one target."""
        return self._targets[target]


class TargetMetrics:
    """The metrics of one target."""

    def __init__(self, families: dict[str, Any], target: str) -> None:
        labels = {"model": target}
        self._ended = {
            reason: families["requests"].Metric(labels={**labels, "finish_reason": reason})
            for reason in get_args(FinishReason)
        }
        self._prompt_tokens, self._tokens, self._accepted, self._waiting, self._running = (
            families[name].Metric(labels=labels)
            for name in ("prompt_tokens", "tokens", "accepted", "waiting", "running")
        )
        self._begun: set[Request] = set()

    def queued(self) -> None:
        """A text waits for its turn."""
        self._waiting.increment(1)

    def began(self, request: Request) -> None:
        """A text has left the queue."""
        self._begun.add(request)
        self._waiting.increment(-1)
        self._running.increment(1)
        self._prompt_tokens.increment(len(request.prompt))

    def stepped(self, step: Step) -> None:
        """A text has gained tokens."""
        self._tokens.increment(len(step.tokens))
        self._accepted.increment(step.drafted)

    def ended(self, request: Request) -> None:
        """A text has ended."""
        (self._running if request in self._begun else self._waiting).increment(-1)
        self._begun.discard(request)
        self._ended[request.finish_reason or "error"].increment(1)


def _counter(name: str, description: str) -> Any:
    return pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)


def _gauge(name: str, description: str) -> Any:
    return pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
