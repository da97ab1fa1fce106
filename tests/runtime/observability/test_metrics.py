"""The metrics count what clients are told, and Prometheus takes them."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from runtime.observability.aliases import NAMES, WithVllmNames
from runtime.observability.monitor import Monitor
from runtime.serving.targets import ServedTarget
from tests.runtime.observability.live_server import PROMPT, LiveServer, live_server

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return sum(found for (each, own), found in series.items() if each == name and labels.items() <= dict(own).items())


def test_promtool_finds_no_fault(server: LiveServer, tool: Callable[[str], Path]) -> None:
    server.complete()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=server.metrics(), capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sums_over_requests_are_the_counters(server: LiveServer) -> None:
    told: Counter[str] = Counter()
    positions: Counter[int] = Counter()
    for number in range(6):
        answer = server.complete(
            prompt=f"{PROMPT} {number}", n=1 + number % 2, temperature=number / 5, seed=number, model="target"
        )
        acceptance = answer["metrics"]["speculative_decoding"]
        told.update(
            drafts=acceptance["num_spec_steps"],
            draft_tokens=acceptance["num_draft_tokens"],
            accepted=acceptance["num_accepted_draft_tokens"],
            generated=answer["usage"]["completion_tokens"],
            texts=len(answer["choices"]),
        )
        positions.update(dict(enumerate(acceptance["accepted_per_position"], 1)))
    series = read(server.metrics())
    assert told["accepted"] > 0
    assert value(series, "s2d_drafts_total", model="target") == told["drafts"]
    assert value(series, "s2d_draft_tokens_total", model="target") == told["draft_tokens"]
    assert value(series, "s2d_accepted_tokens_total", model="target") == told["accepted"]
    assert value(series, "s2d_generated_tokens_total", model="target") == told["generated"]
    assert value(series, "s2d_requests_total", model="target", finish_reason="length") == told["texts"]
    for position, count in positions.items():
        assert value(series, "s2d_accepted_tokens_per_position_total", position=str(position)) == count
    assert value(series, "s2d_generated_tokens_total", model="other") == 0


def test_every_text_is_timed_once_and_every_token_but_the_first(server: LiveServer) -> None:
    for _ in range(3):
        server.complete(max_tokens=9)
    series = read(server.metrics())
    for name in ("time_to_first_token", "request_duration", "queue_time", "time_per_output_token"):
        assert value(series, f"s2d_{name}_seconds_count", model="target") == 3
    assert value(series, "s2d_inter_token_latency_seconds_count", model="target") == 3 * 8
    first, whole = (value(series, f"s2d_{name}_seconds_sum") for name in ("time_to_first_token", "request_duration"))
    assert 0 < first < whole


def test_the_parts_of_the_steps_and_the_exits_are_counted(server: LiveServer) -> None:
    server.complete()
    series = read(server.metrics())
    parts = {
        part: value(series, "s2d_step_seconds_total", model="target", part=part) for part in ("draft", "verify", "host")
    }
    assert all(seconds > 0 for seconds in parts.values())
    drafted = value(series, "s2d_drafts_per_position_total", model="target")
    assert value(series, "s2d_exit_answers_total", model="target") == drafted > 0
    assert value(series, "s2d_cost_measured_seconds_total", model="target", part="verify") > 0
    assert value(series, "s2d_decode_seconds_total", model="target") > 0


def test_nothing_waits_runs_or_fills_the_caches_once_all_texts_have_ended(server: LiveServer) -> None:
    server.complete(n=6)
    series = read(server.metrics())
    for name in ("s2d_requests_waiting", "s2d_requests_running", "s2d_cache_bytes"):
        assert value(series, name) == 0
    assert value(series, "s2d_cache_limit_bytes") > 0
    assert 0 < value(series, "s2d_memory_bytes") < value(series, "s2d_memory_limit_bytes")


def test_a_refused_request_is_counted_with_its_status(server: LiveServer) -> None:
    status, _ = server.ask("POST", "/v1/completions", {"prompt": PROMPT, "model": "target", "temperature": -1})
    assert status == 400
    assert value(read(server.metrics()), "s2d_requests_refused_total", status="400") == 1


def test_series_exist_before_the_first_request(server: LiveServer) -> None:
    """A rate has a beginning only where the counter was seen at 0."""
    series = read(server.metrics())
    for reason in ("stop", "length", "capacity", "cancelled", "error"):
        assert ("s2d_requests_total", (("finish_reason", reason), ("model", "target"))) in series
    for name in ("s2d_drafts_total", "s2d_plain_seconds_total", "s2d_inter_token_latency_seconds_count"):
        assert (name, (("model", "other"),)) in series


def test_a_text_without_drafting_counts_no_drafts_and_has_a_speed_up_of_one(server: LiveServer) -> None:
    server.complete(speculative={"enabled": False})
    series = read(server.metrics())
    assert value(series, "s2d_drafts_total") == value(series, "s2d_exit_answers_total") == 0
    assert value(series, "s2d_speedup_ratio", model="target") == pytest.approx(1.0)


def test_vllms_names_hold_the_same_values(targets: list[ServedTarget]) -> None:
    with live_server(targets, Monitor(vllm_names=True)) as server:
        server.complete()
        series = read(server.metrics())
    for ours, theirs in NAMES.items():
        for suffix in ("", "_total", "_sum", "_count"):
            assert value(series, f"vllm:{theirs}{suffix}") == pytest.approx(value(series, f"s2d_{ours}{suffix}"))
    accepted = ("vllm:spec_decode_num_accepted_tokens_per_pos_total", {"model_name": "target", "engine": "0"})
    assert value(series, accepted[0], **accepted[1], position="0") == value(
        series, "s2d_accepted_tokens_per_position_total", model="target", position="1"
    )
    assert value(series, "vllm:request_success_total", finished_reason="length", model_name="target") == 1
    assert ("vllm:kv_cache_usage_perc", (("engine", "0"), ("model_name", "target"))) in series


@pytest.mark.parametrize("admin", [True, False])
def test_the_description_names_the_routes_that_are_there(targets: list[ServedTarget], admin: bool) -> None:
    with live_server(targets, Monitor(admin=admin)) as server:
        paths = json.loads(server.ask("GET", "/openapi.json")[1])["paths"]
    assert {"/", "/metrics", "/live/text"} <= set(paths)
    assert sorted(paths.get("/admin/policy", {})) == (["get", "put"] if admin else [])


def test_metrics_answer_while_the_targets_load() -> None:
    empty: Collector = WithVllmNames(Monitor().metrics.registry)
    assert any(family.name == "s2d_requests" for family in empty.collect())
