"""Draw a server under load from what aiperf measured: tokens per second and time to first token, by clients.

FOLDER has aiperf's artifacts in on-1, off-1, on-2, off-2, ...: with and without drafting, for so many clients.

python -m tests.benchmarks.serving.picture FOLDER docs/serving-load.svg
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.svg import drawing
from tests.benchmarks.picture import ALONE, DRAFTED

PROG = "python -m tests.benchmarks.serving.picture"
REPORT = "profile_export_aiperf.json"
WAYS = {"off": ("without drafting", ALONE), "on": ("with drafting", DRAFTED)}
Figures = dict[str, dict[int, tuple[float, float]]]
"""Tokens per second and seconds to the first token (median) by clients, for each of ``WAYS``."""


def read_figures(folder: Path) -> Figures:
    """Read the reports. Raises OptionError where there is none, or one is not aiperf's."""
    found: Figures = {way: {} for way in WAYS}
    for path in folder.glob(f"*/{REPORT}"):
        if named := re.fullmatch(r"(on|off)-(\d+)", path.parent.name):
            try:
                report = json.loads(path.read_text(encoding="utf-8"))
                speed, first = report["output_token_throughput"]["avg"], report["time_to_first_token"]["p50"]
                found[named[1]][int(named[2])] = float(speed), float(first) / 1e3
            except (OSError, ValueError, KeyError, TypeError) as cause:
                raise OptionError(f"{path} cannot be read ({cause!r}); run aiperf again") from cause
    if not all(found.values()):
        raise OptionError(f"{folder} needs on-N and off-N with aiperf's {REPORT}")
    return {way: dict(sorted(by_clients.items())) for way, by_clients in found.items()}


def draw(figures: Figures, path: Path) -> None:
    """Two panels; above the speed with drafting, how many times the one without it is."""
    with drawing(path) as figure:
        for at, (axes, title) in enumerate(
            zip(figure.subplots(1, 2), ("tokens per second, all clients", "seconds to the first token"), strict=True)
        ):
            for way, (label, colour) in WAYS.items():
                by_clients = figures[way]
                axes.plot([*by_clients], [each[at] for each in by_clients.values()], "o-", color=colour, label=label)
            clients = sorted({*figures["on"], *figures["off"]})
            axes.set_xscale("log", base=2)
            axes.set_xticks(clients, clients)
            axes.set_xlabel("clients at a time")
            axes.set_ylabel(title)
            axes.margins(y=0.2)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
            if at == 0:
                axes.legend(frameon=False, loc="lower right")
                for count, (speed, _) in figures["on"].items():
                    if alone := figures["off"].get(count):
                        axes.annotate(
                            f"{speed / alone[0]:.2f}x", (count, speed), (0, 6), ha="center", textcoords="offset points",
                            fontsize=8,
                        )  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Read the reports, draw the picture."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="aiperf's artifacts")
    parser.add_argument("out", type=Path, help="the SVG to write")
    options = parser.parse_args(argv)
    draw(read_figures(options.folder), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_command(PROG, main)
