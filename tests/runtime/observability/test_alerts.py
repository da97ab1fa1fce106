"""The alerts fire and fall silent: by promtool for each one, and one with a real Prometheus and Alertmanager."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.observability.monitor import Monitor
from runtime.observability.stack import ALERTS, alertmanager_command, prometheus_command, stack
from runtime.serving.targets import ServedTarget
from tests.benchmarks.panels import ROWS
from tests.runtime.observability.live_server import LiveServer, live_server
from tests.runtime.observability.programs import free_address, load, needs, query, wait_for

CASES = Path(__file__).parent / "alerts_test.yml"
KEY = "secret"
LAST_EXIT, FIRST_EXIT = [2.0, 2.0, 0.0], [0.0, 0.0, 0.0]
"""Thresholds: the whole draft answers, or its first two layers alone, which the target hardly ever agrees with."""


def promtool(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs("promtool")
def test_every_alert_fires_where_it_should_and_is_silent_where_it_should(tmp_path: Path) -> None:
    for path in (ALERTS, CASES):
        shutil.copy(path, tmp_path)
    promtool("check", "rules", ALERTS.name, folder=tmp_path)
    promtool("test", "rules", CASES.name, folder=tmp_path)


@needs("promtool")
def test_the_cases_notice_an_alert_that_never_fires(tmp_path: Path) -> None:
    shutil.copy(CASES, tmp_path)
    silent = ALERTS.read_text(encoding="utf-8").replace(
        "expr: s2d:speedup:ratio_5m < 1", "expr: s2d:speedup:ratio_5m < 0"
    )
    (tmp_path / ALERTS.name).write_text(silent, encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", CASES.name], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 1


def test_every_alert_has_a_case() -> None:
    named = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(set(re.findall(r"alertname: (\w+)", CASES.read_text(encoding="utf-8"))))


def test_alerts_and_panels_name_only_metrics_that_the_server_has(targets: list[ServedTarget]) -> None:
    with live_server(targets, Monitor()) as server:
        text = server.metrics()
    known = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    expressions = [expression for panels in ROWS.values() for panel in panels for expression in panel.queries.values()]
    for source in (ALERTS.read_text(encoding="utf-8"), *expressions):
        used = set(re.findall(r"\bs2d_\w+|\bprocess_\w+", source))
        assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= known


@pytest.fixture
def webhook() -> Iterator[tuple[str, queue.SimpleQueue[dict[str, Any]]]]:
    """An address, and what is posted there."""
    posted: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", posted
        listening.shutdown()
        thread.join()


@pytest.fixture
def administered(targets: list[ServedTarget]) -> Iterator[LiveServer]:
    """A server whose policy can be changed; it drafts with the whole draft."""
    for served in targets:
        served.policy = Policy(FixedThresholds(tuple(LAST_EXIT)))
    with live_server(targets, Monitor(admin=True), KEY) as server:
        yield server


def quick(rules: str) -> str:
    """The rules with windows that a test can wait for."""
    for written, short in (("[5m]", "[2s]"), ("[1h]", "[60s]"), ("for: 2m", "for: 1s")):
        assert written in rules
        rules = rules.replace(written, short)
    return rules


@needs("prometheus", "prometheus-alertmanager")
def test_a_fall_of_acceptance_reaches_the_operator_and_so_does_its_end(
    administered: LiveServer, webhook: tuple[str, queue.SimpleQueue[dict[str, Any]]], tmp_path: Path
) -> None:
    server, (address, posted) = administered, webhook
    prometheus, alertmanager = free_address(), free_address()
    rules = quick(ALERTS.read_text(encoding="utf-8"))

    def draft_with(thresholds: list[float]) -> None:
        status, body = server.ask("PUT", "/admin/policy", {"model": "target", "thresholds": thresholds})
        assert status == 200, body

    def told(status: str) -> dict[str, Any]:
        while True:
            message = posted.get(timeout=60)
            if message["groupLabels"] == {"alertname": "S2dAcceptanceFell", "model": "target"}:
                assert message["status"] == status
                return message

    with stack(tmp_path) as running, load(server):
        running.start("alertmanager", alertmanager_command(tmp_path, alertmanager, address, wait="200ms"))
        running.start("prometheus", prometheus_command(tmp_path, prometheus, server.address, alertmanager, rules, 0.2))
        running.wait_until_ready("alertmanager", alertmanager, "/-/ready", 30)
        running.wait_until_ready("prometheus", prometheus, "/-/ready", 30)
        wait_for(lambda: query(prometheus, 's2d:acceptance:ratio_1h{model="target"} > 0.3'))
        draft_with(FIRST_EXIT)
        (alert,) = told("firing")["alerts"]
        assert alert["labels"]["severity"] == "warning"
        assert re.fullmatch(r"target accepts [\d.]+% of its draft tokens", alert["annotations"]["summary"])
        draft_with(LAST_EXIT)
        told("resolved")
