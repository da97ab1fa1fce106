"""The same metrics under the names that vLLM gives them, for tools that scrape those."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

NAMES = {
    "requests": "request_success",
    "requests_waiting": "num_requests_waiting",
    "requests_running": "num_requests_running",
    "queue_time_seconds": "request_queue_time_seconds",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "request_duration_seconds": "e2e_request_latency_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "time_per_output_token_seconds": "request_time_per_output_token_seconds",
    "prompt_tokens": "prompt_tokens",
    "prompt_tokens_restored": "prompt_tokens_cached",
    "generated_tokens": "generation_tokens",
    "drafts": "spec_decode_num_drafts",
    "draft_tokens": "spec_decode_num_draft_tokens",
    "accepted_tokens": "spec_decode_num_accepted_tokens",
    "accepted_tokens_per_position": "spec_decode_num_accepted_tokens_per_pos",
}
"""vLLM's name, behind ``vllm:``, of each metric behind ``s2d_``."""
LABELS = {"model": "model_name", "finish_reason": "finished_reason"}
REASONS = {"capacity": "length", "cancelled": "abort"}
"""vLLM knows fewer reasons."""


class WithVllmNames(Collector):
    """The metrics of ``source``, and copies of them under vLLM's names."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """All metrics, those that have an alias twice; and the use of the caches as a share."""
        families = {family.name.removeprefix("s2d_"): family for family in self._source.collect()}
        yield from families.values()
        for name, alias in NAMES.items():
            yield _renamed(families[name], f"vllm:{alias}")
        if "cache_limit_bytes" not in families:  # the server is loading
            return
        limit = families["cache_limit_bytes"].samples[0].value
        labels = ["model_name", "engine"]
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of the caches in use", labels=labels)
        for sample in families["cache_bytes"].samples:
            usage.add_metric([sample.labels["model"], "0"], sample.value / limit)
        yield usage


def _renamed(family: Metric, name: str) -> Metric:
    renamed = Metric(name, family.documentation, family.type)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        key = name + sample.name.removeprefix(family.name), tuple(_labels(sample).items())
        values[key] = values.get(key, 0.0) + sample.value
    for (full_name, labels), value in values.items():
        renamed.add_sample(full_name, dict(labels), value)
    return renamed


def _labels(sample: Sample) -> dict[str, str]:
    labels = {LABELS.get(label, label): value for label, value in sample.labels.items()}
    if "position" in labels:  # vLLM counts from 0
        labels["position"] = str(int(labels["position"]) - 1)
    if "finished_reason" in labels:
        labels["finished_reason"] = REASONS.get(labels["finished_reason"], labels["finished_reason"])
    return labels | {"engine": "0"}
