"""Tables and plots of benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def table_lines(title: str, rows: Sequence[Row]) -> list[str]:
    """A heading and a Markdown table; columns in the order in which they first come."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return lines + [f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).replace("|", "/")


def plot_bars(path: Path, title: str, unit: str, bars: Sequence[tuple[str, float, float, float]]) -> bool:
    """Horizontal bars of ``(label, median, least, most)``; False, with a word on stderr, without matplotlib."""
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
    """A line for each name, of x and y; False, with a word on stderr, without matplotlib."""
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
