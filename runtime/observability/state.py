"""Metrics that are read when they are asked for: caches, memory, costs and the speed-up of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import s2d_trt
from runtime.decoding.scheduler import Scheduler
from runtime.machine.memory import memory_limit, memory_used
from runtime.observability.speedup import SpeedUp
from runtime.serving.targets import ServedTarget


class StateCollector(Collector):
    """Reads the scheduler and the targets, from any thread."""

    def __init__(self, targets: Sequence[ServedTarget], scheduler: Scheduler, speedups: Mapping[str, SpeedUp]) -> None:
        self._targets, self._scheduler, self._speedups = targets, scheduler, speedups
        self._cache_limit, self._memory_limit = cache_limit(targets, scheduler), memory_limit()

    def collect(self) -> Iterator[Metric]:
        """The gauges; those of a target have the label ``model``."""
        memory = self._scheduler.memory
        yield GaugeMetricFamily("s2d_cache_limit_bytes", "Most bytes of running texts in caches", self._cache_limit)
        yield GaugeMetricFamily("s2d_prefix_cache_bytes", "Bytes kept of earlier texts", memory.prefixes_bytes)
        yield GaugeMetricFamily("s2d_memory_bytes", "Memory that this process takes", memory_used())
        yield GaugeMetricFamily("s2d_memory_limit_bytes", "Memory that this process may use", self._memory_limit)
        info = GaugeMetricFamily(
            "s2d_target_info", "What is served", labels=["model", "draft", "fingerprint", "version"]
        )
        cache = GaugeMetricFamily("s2d_cache_bytes", "Bytes of running texts in caches", labels=["model"])
        speedup = GaugeMetricFamily(
            "s2d_speedup_ratio", "Estimated speed-up over plain decoding in the latest steps", labels=["model"]
        )
        disagreement = GaugeMetricFamily(
            "s2d_cost_disagreement_ratio", "How far the draft's costs over the target's are from what was measured",
            labels=["model"],
        )  # fmt: skip
        running = list(self._scheduler.running)
        for served in self._targets:
            name, decoder = served.name, served.decoder
            draft = decoder.draft.name if decoder.draft else ""
            info.add_metric([name, draft, served.fingerprint, s2d_trt.__version__], 1)
            texts = [request for request in running if request.pair.target is decoder.target]
            cache.add_metric([name], memory.bytes_of(texts))
            speedup.add_metric([name], self._speedups[name].ratio)
            disagreement.add_metric([name], decoder.cost_disagreement)
        yield from (info, cache, speedup, disagreement)


def cache_limit(targets: Sequence[ServedTarget], scheduler: Scheduler) -> int:
    """Bytes that running texts may take: what the operator allows, or as many of the longest texts as may run."""
    if scheduler.memory.limit is not None:
        return scheduler.memory.limit
    longest = (served.decoder.target.max_length * served.decoder.token_bytes for served in targets)
    return scheduler.sequences * max(longest, default=0)
