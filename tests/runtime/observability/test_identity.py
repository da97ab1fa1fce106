"""Texts are generated again without drafting while the server is idle, and compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime.decoding.batch import CallReport
from runtime.observability.monitor import Monitor
from runtime.serving.targets import ServedTarget
from tests.runtime.observability.live_server import LiveServer, live_server
from tests.runtime.observability.programs import wait_for
from tests.runtime.observability.test_metrics import read, value


@pytest.fixture
def server(targets: list[ServedTarget]) -> Iterator[LiveServer]:
    """Checks every text."""
    with live_server(targets, Monitor(check_identity=1.0)) as server:
        yield server


def checks(server: LiveServer, result: str) -> float:
    return value(read(server.metrics()), "s2d_identity_checks_total", model="target", result=result)


def test_every_text_is_found_identical(server: LiveServer) -> None:
    for number in range(4):
        server.complete(temperature=number / 3, seed=number, max_tokens=20)
    wait_for(lambda: checks(server, "identical") == 4)
    assert checks(server, "different") == checks(server, "failed") == 0


def test_a_text_that_differs_is_counted_and_its_seed_is_logged(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.observability.identity.same_bits", lambda *_: False)
    server.complete(seed=4711, temperature=1)
    wait_for(lambda: checks(server, "different") == 1)
    assert "seed 4711" in caplog.text


def test_a_check_that_fails_is_counted_and_ends_nothing(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bool:
        raise ValueError("cannot compare")

    monkeypatch.setattr("runtime.observability.identity.same_bits", fail)
    server.complete()
    wait_for(lambda: checks(server, "failed") == 1)
    assert server.complete()["choices"]


def test_texts_that_did_not_draft_are_not_checked(server: LiveServer) -> None:
    server.complete(speculative={"enabled": False})
    server.complete()
    wait_for(lambda: checks(server, "identical") == 1)


def test_checks_are_in_no_other_metric(server: LiveServer) -> None:
    server.complete(max_tokens=20)
    before = value(read(server.metrics()), "s2d_generated_tokens_total")
    wait_for(lambda: checks(server, "identical") == 1)
    series = read(server.metrics())
    assert value(series, "s2d_generated_tokens_total") == before == 20
    assert value(series, "s2d_requests_total") == 1


def test_a_check_gives_way_to_a_text_and_begins_anew(server: LiveServer) -> None:
    began, go_on, checking = threading.Event(), threading.Event(), []

    def hold(report: CallReport) -> None:
        checking.extend(request for request in report.texts if not request.options.draft and request not in checking)
        if checking:
            began.set()
            assert go_on.wait(30)

    server.scheduler.watchers.append(hold)
    server.complete(max_tokens=40)
    assert began.wait(30)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.complete, max_tokens=4)
        wait_for(lambda: checking[0].cancelled)
        go_on.set()
        assert answer.result()["usage"]["completion_tokens"] == 4
    wait_for(lambda: checks(server, "identical") == 2)
    assert [request.finish_reason for request in checking].count("cancelled") == 1


def test_a_server_that_ends_during_a_check_counts_and_logs_nothing(
    targets: list[ServedTarget], caplog: pytest.LogCaptureFixture
) -> None:
    monitor, began = Monitor(check_identity=1.0), threading.Event()
    with live_server(targets, monitor) as server:
        server.scheduler.watchers.append(
            lambda report: None if report.texts[0].options.draft else began.set(),
        )
        for _ in range(3):
            server.complete(max_tokens=200)
        assert began.wait(30)
    checked = monitor.metrics.registry.get_sample_value
    labels = {"model": "target", "result": "failed"}
    assert checked("s2d_identity_checks_total", labels) == 0
    assert not caplog.records


def test_a_share_of_the_texts_is_checked(targets: list[ServedTarget]) -> None:
    with live_server(targets, Monitor(check_identity=1e-9)) as server:
        server.complete()
        assert checks(server, "identical") == 0
