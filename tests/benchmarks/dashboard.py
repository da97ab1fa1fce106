"""Write the Grafana dashboard.

  python -m tests.benchmarks.dashboard > runtime/observability/dashboard.json

A test holds that the file is this command's output. In Grafana choose Dashboards > New > Import, upload the
file, and name your Prometheus when it asks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)

from s2d_trt.cli import ArgumentParser, run_command
from tests.benchmarks.panels import ROWS, Panel

PROG = "python -m tests.benchmarks.dashboard"
SOURCE = DataSourceRef("prometheus", "${datasource}")


def dashboard() -> Dashboard:
    """The dashboard, with variables for the Prometheus, the server and the target."""
    builder = (
        dashboards.Dashboard("s2d-trt")
        .uid("s2d-trt")
        .description("Sorted speculative decoding: requests, drafting, speed and memory.")
        .tags(["s2d-trt", "inference"])
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("instance", "Server"))
        .with_variable(_variable("model", "Target"))
    )
    for title, panels in ROWS.items():
        builder.with_row(dashboards.Row(title))
        for panel in panels:
            builder.with_panel(_stat(panel) if panel.kind == "stat" else _timeseries(panel))
    return builder.build()


def _variable(name: str, label: str) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values(s2d_target_info, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _queries(panel: Panel) -> list[Dataquery]:
    letters = "ABCDEFGH"
    return [
        Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).ref_id(letter)
        for letter, (legend, expression) in zip(letters, panel.queries.items(), strict=False)
    ]


def _stat(panel: Panel) -> stat.Panel:
    builder = stat.Panel().title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    builder.graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    return builder.targets(list(_queries(panel))).span(panel.width).height(4)


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    builder = timeseries.Panel().title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    builder.legend(legend.show_legend(True)).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    builder.fill_opacity(8).min(0)
    return builder.targets(list(_queries(panel))).span(panel.width).height(8)


def dashboard_json() -> str:
    """The dashboard as Grafana reads it."""
    return JSONEncoder(sort_keys=True, indent=1).encode(dashboard()) + "\n"


def main(argv: Sequence[str]) -> None:
    """Print the dashboard."""
    ArgumentParser(__doc__ or "", PROG).parse_args(argv)
    sys.stdout.write(dashboard_json())


if __name__ == "__main__":
    run_command(PROG, main)
