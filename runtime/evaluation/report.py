"""One HTML file with plots and tables of runs. It holds its scripts too and asks for no network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runtime.evaluation.matrix.figures import (
    acceptance_by_depth,
    calibration,
    categories,
    exit_shares,
    identical,
    mean_accepted,
    report_lines,
    seconds_by_part,
    speedup,
)
from runtime.evaluation.matrix.runs import Run, unwritable
from runtime.evaluation.matrix.schema import EXTRAS
from s2d_trt.errors import OptionError
from s2d_trt.files import write_file
from s2d_trt.reading import read_object

WIDTH = 640
Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plot:
    """A Vega-Lite specification and what it shows."""

    name: str
    title: str
    spec: Spec


def write_report(runs: Sequence[Run], extras: Mapping[str, Path | None], out: Path, svg: Path | None = None) -> None:
    """Write the page, and each plot as SVG into the folder ``svg``.

    ``extras`` are files that runtime.tune (``tuning``), runtime.advise (``advice``) and runtime.predict
    (``prediction``) wrote with --json.

    Raises:
        OptionError: vl-convert is not installed, or a file cannot be read or written.
    """
    try:
        import vl_convert
    except ImportError as cause:
        raise OptionError(
            "reports need vl-convert; install the extra: pip install -e '.[evaluate]' in the checkout"
        ) from cause
    found = {name: _read(name, path) for name, path in extras.items() if path is not None}
    plots = [*plots_of_runs(runs), *plots_of_extras(found)]
    try:
        write_file(out, page(runs, plots, vl_convert.javascript_bundle()))  # type: ignore[call-arg]
        for plot in plots if svg else ():
            write_file(Path(svg or ".") / f"{plot.name}.svg", vl_convert.vegalite_to_svg(plot.spec))
    except OSError as cause:
        raise unwritable(out, cause) from cause


def _read(name: str, path: Path) -> Any:
    remedy = "name a file that its --json option wrote"
    data = read_object(path, OptionError, remedy)
    try:
        msgspec.convert(data, EXTRAS[name])
    except msgspec.ValidationError as cause:
        raise OptionError(f"{path} holds no figures of {name} ({cause}); {remedy}") from cause
    return data


def plots_of_runs(runs: Sequence[Run]) -> Iterator[Plot]:
    """Speed-up by target and by category, acceptance by depth, exits, time by part, calibration."""
    alone = [run for run in runs if run.settings["texts"] == 1]
    rows = [_interval(run, speedup(run)) for run in runs]
    yield _plot("speedup", "Speed-up over the target alone, 95 % interval", _with_intervals(rows, "run"))
    rows = [
        _interval(run, speedup(run, category)) | {"category": category}
        for run in alone
        for category in categories(run)
        if category
    ]
    if rows:
        spec = _with_intervals(rows, "category")
        yield _plot("categories", "Speed-up by category", spec)
    rows = [
        {"run": run.title, "depth": depth, "accepted": share}
        for run in alone
        for depth, share in enumerate(acceptance_by_depth(run), 1)
    ]
    if rows:
        spec = _chart(rows, "line", "depth", "accepted")
        yield _plot("depth", "Steps in which a node of the depth was accepted", spec)
    rows = [
        {"run": run.title, "exit": exit_, "share": share} for run in alone for exit_, share in exit_shares(run).items()
    ]
    if rows:
        yield _plot("exits", "Depths that each exit answered", _bars(rows, "share", "exit"))
    rows = [
        {"run": run.title, "part": part, "seconds": seconds}
        for run in alone
        for part, seconds in seconds_by_part(run).items()
    ]
    if rows:
        yield _plot("parts", "Seconds of the drafted texts by part", _bars(rows, "seconds", "part"))
    rows = [
        {"run": run.title, "predicted": predicted, "accepted": share, "nodes": count}
        for run in alone
        for predicted, share, count in calibration(run)
    ]
    if rows:
        yield _plot("calibration", "Acceptance, predicted and observed", _on_diagonal(rows, "predicted", "accepted"))


def plots_of_extras(found: Mapping[str, Any]) -> Iterator[Plot]:
    """The threshold surface, the Pareto front, and predictions against measurements."""
    if "tuning" in found:
        rows = found["tuning"]["surface"]
        spec = _chart(rows, "rect", "first", "second", "speedup")
        spec["encoding"]["x"]["type"] = spec["encoding"]["y"]["type"] = "ordinal"
        spec["encoding"]["x"]["axis"] = spec["encoding"]["y"]["axis"] = {"format": ".2f"}
        yield _plot("thresholds", "Predicted speed-up by the thresholds of the first two exits", spec)
    if "advice" in found:
        spec = _chart(found["advice"]["settings"], "point", "ms_per_token", "cost_per_million")
        spec["encoding"]["shape"] = {"field": "on_front", "type": "nominal"}
        spec["encoding"]["tooltip"] = [{"field": "setting"}]
        yield _plot("pareto", "Cost against delay; the front is what nothing beats in both", spec)
    if "prediction" in found:
        rows = found["prediction"]["compared"]
        yield _plot("prediction", "Predicted against measured speed-up", _on_diagonal(rows, "predicted", "measured"))


def _interval(run: Run, interval: Any) -> dict[str, Any]:
    return {"run": run.title, "value": interval.value, "low": interval.low, "high": interval.high}


def _plot(name: str, title: str, spec: Spec) -> Plot:
    schema = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is loaded from there
    return Plot(name, title, {"$schema": schema, "width": WIDTH, **spec})


def _chart(rows: list[dict[str, Any]], mark: str, x: str, y: str, color: str = "run") -> Spec:
    encoding: Spec = {"x": {"field": x, "type": "quantitative"}, "y": {"field": y, "type": "quantitative"}}
    if rows and color in rows[0]:
        kind = "nominal" if isinstance(rows[0][color], str) else "quantitative"
        encoding["color"] = {"field": color, "type": kind}
    shown = {"type": mark, "tooltip": True} | ({"point": True} if mark == "line" else {})
    return {"data": {"values": rows}, "mark": shown, "encoding": encoding}


def _bars(rows: list[dict[str, Any]], x: str, color: str) -> Spec:
    spec = _chart(rows, "bar", x, "run", color)
    spec["encoding"]["y"] = {"field": "run", "type": "nominal", "title": None, "axis": {"labelLimit": 300}}
    spec["encoding"]["color"] = {"field": color, "type": "nominal"}
    spec["mark"] = {"type": "bar", "tooltip": True}
    return spec


def _with_intervals(rows: list[dict[str, Any]], y: str) -> Spec:
    axis = {"field": y, "type": "nominal", "title": None, "axis": {"labelLimit": 300}}
    colour = {"field": "run", "type": "nominal", "legend": None} if y == "run" else {"field": "run", "type": "nominal"}
    shift = {} if y == "run" else {"yOffset": {"field": "run"}}
    one = {"data": {"values": [{"one": 1}]}, "mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {
        "x": {"field": "one", "type": "quantitative"}}}  # fmt: skip
    scale = {"scale": {"zero": False}, "title": "speed-up"}
    interval = {"mark": "rule", "encoding": {
        "x": {"field": "low", "type": "quantitative", **scale}, "x2": {"field": "high"}, "y": axis, "color": colour,
        **shift}}  # fmt: skip
    point = {"mark": {"type": "point", "filled": True, "tooltip": True, "size": 70}, "encoding": {
        "x": {"field": "value", "type": "quantitative", **scale}, "y": axis, "color": colour, **shift}}  # fmt: skip
    return {"data": {"values": rows}, "layer": [interval, point, one]}


def _on_diagonal(rows: list[dict[str, Any]], x: str, y: str) -> Spec:
    points = _chart(rows, "point", x, y)
    values = [row[name] for row in rows for name in (x, y)]
    ends = [{x: end, y: end} for end in (min(values), max(values))]
    diagonal = _chart(ends, "line", x, y)
    diagonal["mark"] = {"type": "line", "strokeDash": [4, 4], "color": "gray"}
    return {"layer": [points, diagonal]}


def page(runs: Sequence[Run], plots: Sequence[Plot], script: str) -> str:
    """The HTML."""
    specs = {plot.name: plot.spec for plot in plots}
    sections = "".join(f'<h2>{html.escape(plot.title)}</h2><div id="{plot.name}"></div>' for plot in plots)
    embedded = json.dumps(specs).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sorted speculative decoding: measured</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }} pre {{ background: #f6f6f6; padding: 1rem; overflow: auto }}
</style></head><body>
<h1>Sorted speculative decoding: measured</h1>
{_table(runs)}
{sections}
<h2>By category, and where it was measured</h2>
<pre>{html.escape(chr(10).join(line for run in runs for line in report_lines(run)))}</pre>
<pre>{html.escape(json.dumps(runs[0].environment, indent=1))}</pre>
<script type="module">{script}
const specs = {embedded};
for (const [name, spec] of Object.entries(specs)) {{
  vegaEmbed("#" + name, spec, {{actions: false, renderer: "svg"}});
}}
</script></body></html>
"""


def _table(runs: Sequence[Run]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(run.title)}</td><td>{speedup(run)}</td><td>{mean_accepted(run):.2f}</td>"
        f"<td>{identical(run)[0]}/{identical(run)[1]}</td></tr>"
        for run in runs
    )
    head = "<tr><th>run</th><th>speed-up (95 %)</th><th>mean accepted</th><th>identical</th></tr>"
    return f"<table>{head}{rows}</table>"
