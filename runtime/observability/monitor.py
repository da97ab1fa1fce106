"""All that shows a server, in one piece for whoever starts it."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.observability.aliases import WithVllmNames
from runtime.observability.identity import IdentityCheck
from runtime.observability.metrics import Metrics
from runtime.observability.routes import ADMIN_OPERATIONS, OPERATIONS, observability_routes
from runtime.serving.observer import Observer
from runtime.serving.openapi import Operation
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget


class Monitor:
    """``check_identity`` is the share of texts that are generated again without drafting, in idle time. With
    ``vllm_names`` the metrics have vLLM's names too. With ``admin`` there is /admin/policy.
    """

    def __init__(self, vllm_names: bool = False, check_identity: float = 0.0, admin: bool = False) -> None:
        self.metrics = Metrics()
        self._admin = admin
        self._source: Collector = WithVllmNames(self.metrics.registry) if vllm_names else self.metrics.registry
        self._check: IdentityCheck | None = None
        if check_identity:
            checks, unseen = self.metrics.instruments.identity_checks, self.metrics.unseen
            self._check = IdentityCheck(
                check_identity, lambda model, result: checks.labels(model, result).inc(), unseen.add
            )

    @property
    def observers(self) -> list[Observer]:
        """Who follows the texts."""
        return [self.metrics, self._check] if self._check else [self.metrics]

    def routes(self, state: ServerState) -> list[BaseRoute]:
        """Routes beside the usual ones."""
        return observability_routes(state, self._source, self._admin)

    @property
    def operations(self) -> Sequence[Operation]:
        """What the routes do, for /openapi.json."""
        return (*OPERATIONS, *ADMIN_OPERATIONS) if self._admin else OPERATIONS

    def begin(self, targets: Sequence[ServedTarget], scheduler: Scheduler, service: TextService) -> None:
        """Follow ``scheduler``, before its first text. Call it once the targets are loaded."""
        self.metrics.begin(targets, scheduler)
        if self._check is not None:
            self._check.begin(service)
