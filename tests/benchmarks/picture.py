"""Draw the README's picture from the bench's figures: tokens per second of targets alone and with the sorted draft.

python -m runtime.bench --target target-17m,target-6m --prompts demo --temperature 0,1 --json out.json
python -m tests.benchmarks.picture out.json docs/speedup.svg
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.svg import drawing

PROG = "python -m tests.benchmarks.picture"
ALONE, DRAFTED = "#9aa5b1", "#2f6fde"


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of one or more files that the bench wrote. Raises OptionError."""
    results: list[dict[str, Any]] = []
    for path in paths:
        try:
            results += json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as cause:
            raise OptionError(f"{path} cannot be read ({cause}); name a file of runtime.bench --json") from cause
    return results


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """A pair of bars for each target and temperature; above it the speed-up and how many outputs are identical."""
    with drawing(path) as figure:
        axes = figure.add_subplot()
        for at, result in enumerate(results):
            speeds = result["tokens_per_second"]
            axes.bar(at - 0.2, speeds["alone"], 0.38, color=ALONE, label="target alone" if at == 0 else None)
            axes.bar(at + 0.2, speeds["s2d"], 0.38, color=DRAFTED, label="with the sorted draft" if at == 0 else None)
            identical = f"{result['bit_identical']}/{result['prompts']} bit-identical"
            axes.annotate(
                f"{result['speedup']:.2f}x\n{identical}", (at, max(speeds.values())), (0, 3), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axes.set_xticks(range(len(results)), [_label(result) for result in results])
        axes.set_ylabel("tokens per second")
        axes.margins(y=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)


def _label(result: dict[str, Any]) -> str:
    temperature = result["temperature"]
    return f"{result['target']}\n{f'T = {temperature:g}' if temperature else 'greedy'}"


def main(argv: Sequence[str]) -> None:
    """Read the results, draw the picture."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("results", type=Path, nargs="+", help="files of runtime.bench --json")
    parser.add_argument("out", type=Path, help="the SVG to write")
    options = parser.parse_args(argv)
    draw(read_results(options.results), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_command(PROG, main)
