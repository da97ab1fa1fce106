"""The dashboard that ships is the generated one, and each of its expressions finds data."""

from __future__ import annotations

import json
import math
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from runtime.observability.stack import ALERTS, DASHBOARD, prometheus_command, stack
from tests.benchmarks.dashboard import dashboard_json
from tests.benchmarks.panels import ROWS
from tests.runtime.observability.live_server import PROMPT, LiveServer
from tests.runtime.observability.programs import free_address, load, needs, query, wait_for

EXPRESSIONS = {
    f"{row} / {panel.title} / {legend}": expression
    for row, panels in ROWS.items()
    for panel in panels
    for legend, expression in panel.queries.items()
}


def test_the_file_that_ships_is_the_generated_one() -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard_json()


def test_the_dashboard_survives_a_round_trip() -> None:
    read = json.loads(dashboard_json())
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(read))) == read


def test_every_panel_has_its_place_and_its_expressions() -> None:
    panels = [panel for panel in json.loads(dashboard_json())["panels"] if panel["type"] != "row"]
    assert len(panels) == sum(map(len, ROWS.values()))
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert sorted(target["expr"] for panel in panels for target in panel["targets"]) == sorted(EXPRESSIONS.values())


@needs("prometheus")
def test_every_expression_finds_data_in_a_prometheus_that_asks_a_live_server(
    server: LiveServer, tmp_path: Path
) -> None:
    prometheus, nobody = free_address(), free_address()
    rules = ALERTS.read_text(encoding="utf-8")
    with stack(tmp_path) as running, load(server):
        running.start("prometheus", prometheus_command(tmp_path, prometheus, server.address, nobody, rules, 0.2))
        running.wait_until_ready("prometheus", prometheus, "/-/ready", 30)
        wait_for(lambda: query(prometheus, "s2d_target_info"))
        status, _ = server.ask("POST", "/v1/completions", {"prompt": PROMPT, "model": "target", "temperature": -1})
        assert status == 400
        for place, expression in EXPRESSIONS.items():
            for variable, value in (("$model", ".*"), ("$instance", ".*"), ("$__rate_interval", "5s")):
                expression = expression.replace(variable, value)
            numbers = wait_for(lambda expression=expression: _numbers(prometheus, expression))
            assert numbers, place


def _numbers(prometheus: str, expression: str) -> list[float]:
    values = [float(series["value"][1]) for series in query(prometheus, expression)]
    return [value for value in values if not math.isnan(value)]
