"""Tables, plots and report files of the benchmarks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2d_trt.files import write_file

Row = dict[str, Any]
"""Column to value; floats are shown with three digits."""


def table_lines(title: str, rows: Sequence[Row]) -> list[str]:
    """A heading and a Markdown table; columns are in the order of their first occurrence."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return lines + [f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).replace("|", "/")


def write_report(out: Path, lines: Sequence[str], data: object) -> None:
    """Write ``lines`` to ``OUT.md`` and ``data`` to ``OUT.json``, and print both names."""
    markdown, figures = out.with_suffix(".md"), out.with_suffix(".json")
    write_file(markdown, "\n".join(lines) + "\n")
    write_file(figures, json.dumps(data, indent=1) + "\n")
    print(f"wrote {markdown} and {figures}")


def plot_bars(path: Path, title: str, unit: str, bars: Sequence[tuple[str, float, float, float]]) -> bool:
    """Plot horizontal bars of ``(label, median, least, most)``; without matplotlib print a note and return False."""
    if (axes := _axes(title, (9, 1.2 + 0.3 * len(bars)))) is None:
        return False
    labels = [label for label, *_ in bars]
    values = [median for _, median, _, _ in bars]
    errors = [[median - least for _, median, least, _ in bars], [most - median for _, median, _, most in bars]]
    colours = ["tab:orange" if label.startswith("s2d-trt") else "tab:blue" for label in labels]
    axes.barh(labels, values, xerr=errors, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    _save(axes, path)
    return True


def plot_lines(path: Path, title: str, across: str, up: str, lines: dict[str, tuple[list[float], list[float]]]) -> bool:
    """Plot a line for each name from its x and y; without matplotlib print a note and return False."""
    if (axes := _axes(title, (7, 4))) is None:
        return False
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="o", label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.legend()
    _save(axes, path)
    return True


def _axes(title: str, size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: install matplotlib (pip install -e '.[bench]')", file=sys.stderr)
        return None
    axes = Figure(figsize=size, layout="constrained").add_subplot()
    axes.set_title(title)
    return axes


def _save(axes: Any, path: Path) -> None:
    axes.figure.savefig(path)
