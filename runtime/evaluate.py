"""Measure combinations of targets, drafts and settings, compare runs, and make reports.

A matrix in TOML says what is combined:

  targets = ["target-17m", "target-6m"]      drafts = ["draft"]
  temperatures = [0, 1]                      texts = [1, 4]
  precisions = ["fp32", "int8"]              (stand for {precision} in the names of the bundles)
  prompts = "demo"                           limit = 20
  [policies.default]
  [policies.published]
  thresholds = [0.5, 0.5, 0]

  python -m runtime.evaluate matrix.toml --out runs/       (continues where it was stopped)
  python -m runtime.evaluate compare before/ after/        (exit code 1 where a gate is broken)
  python -m runtime.evaluate report runs/ --out report.html
  python -m runtime.evaluate answers runs/ --out answers/  (Spec-Bench's files)

Each cell is one run file of JSON with every unit that was measured, drafted and alone in turn. Keys of a policy:
kind, thresholds, confidence, depth, top_k, nodes, lookup, exact, or profile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runtime.evaluation.matrix.comparing import Gates, broken_gates, changes, pair_runs
from runtime.evaluation.matrix.figures import report_lines
from runtime.evaluation.matrix.plan import Matrix
from runtime.evaluation.matrix.runs import Run, read_runs, unwritable
from runtime.evaluation.matrix.sinks import Trackers
from runtime.evaluation.matrix.spec_bench import answer_lines
from runtime.evaluation.matrix.sweeping import measure_all
from s2d_trt.cli import ArgumentParser, run_command
from s2d_trt.errors import OptionError
from s2d_trt.files import write_file

PROG = "python -m runtime.evaluate"


def main(argv: Sequence[str]) -> int:
    """Dispatch to what the first argument says."""
    verbs: dict[str, Callable[[Sequence[str]], int]] = {"compare": _compare, "report": _report, "answers": _answers}
    return verbs[argv[0]](argv[1:]) if argv and argv[0] in verbs else _measure(argv)


def _measure(argv: Sequence[str]) -> int:
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("matrix", type=Path, help="a TOML file, or one of: compare, report, answers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run files are")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="measure on a Ray cluster's machines, one cell at a time on each: auto, local"
    )
    parser.add_argument("--trackio", metavar="PROJECT", help="also send the figures to trackio")
    arguments = parser.parse_args(argv)
    matrix = Matrix.read(arguments.matrix)
    trackers = Trackers(arguments.trackio)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise unwritable(arguments.out, cause) from cause
    for run, measured in _runs(matrix, arguments.out, arguments.ray):
        print("\n".join(report_lines(run)), flush=True)
        if measured:
            trackers.send(run)
    return 0


def _runs(matrix: Matrix, folder: Path, ray: str | None) -> Iterator[tuple[Run, bool]]:
    if ray is None:
        return measure_all(matrix, folder, Progress())
    from runtime.evaluation.matrix.cluster import measure_on_cluster

    return measure_on_cluster(matrix, folder, Progress(), ray)


class Progress:
    """What is measured, how far it is and how long the rest will take, on stderr."""

    def __init__(self) -> None:
        self.began, self.units = time.perf_counter(), 0

    def __call__(self, title: str, done: int, units: int, left: int) -> None:
        """``done`` of ``units`` of a cell are there, and ``left`` units of all cells are to be measured."""
        self.units += 1
        minutes = (time.perf_counter() - self.began) / self.units * left / 60
        if sys.stderr.isatty() or done in (1, units):
            end = "" if sys.stderr.isatty() else "\n"
            print(f"\r\033[K{title}: {done}/{units}, {minutes:.0f} min left", end=end, file=sys.stderr, flush=True)


def _compare(argv: Sequence[str]) -> int:
    parser = ArgumentParser("Name what changed between two folders of runs, and hold it against gates.", PROG)
    parser.add_argument("old", type=Path, help="a run file or a folder of them")
    parser.add_argument("new", type=Path, help="the same combinations, measured later")
    parser.add_argument("--target-loss", type=float, default=0.02, help="what the worst target may lose (%(default)s)")
    parser.add_argument("--category-loss", type=float, default=0.05, help="what a category may lose (%(default)s)")
    arguments = parser.parse_args(argv)
    pairs = pair_runs(read_runs(arguments.old), read_runs(arguments.new))
    for old, new in pairs:
        for change in changes(old, new):
            if change.beyond_noise or not change.category:
                print(change)
    broken = broken_gates(pairs, Gates(arguments.target_loss, arguments.category_loss))
    for reason in broken:
        print(f"FAILED: {reason}")
    return int(bool(broken))


def _report(argv: Sequence[str]) -> int:
    from runtime.evaluation.report import write_report

    parser = ArgumentParser("One HTML file with the plots of a folder of runs; it opens without a network.", PROG)
    parser.add_argument("runs", type=Path, help="a run file or a folder of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="also write each plot as SVG")
    parser.add_argument("--tuning", type=Path, metavar="FILE", help="what runtime.tune --json wrote")
    parser.add_argument("--advice", type=Path, metavar="FILE", help="what runtime.advise --json wrote")
    parser.add_argument("--prediction", type=Path, metavar="FILE", help="what runtime.predict --json wrote")
    arguments = parser.parse_args(argv)
    extras = {name: getattr(arguments, name) for name in ("tuning", "advice", "prediction")}
    write_report(read_runs(arguments.runs), extras, arguments.out, arguments.svg)
    print(f"wrote {arguments.out}")
    return 0


def _answers(argv: Sequence[str]) -> int:
    parser = ArgumentParser("Write the answers of runs in Spec-Bench's format, two files a run.", PROG)
    parser.add_argument("runs", type=Path, help="a run file or a folder of them, one text at a time")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files are written")
    arguments = parser.parse_args(argv)
    runs = [run for run in read_runs(arguments.runs) if run.settings["texts"] == 1]
    if not runs:
        raise OptionError("none of the runs has one text at a time, which Spec-Bench's files are of")
    for run in runs:
        for side in ("drafted", "alone"):
            name = run.title.replace(" ", "_").replace(",", "").replace("+", "with")
            path = arguments.out / f"{name}_{side}.jsonl"
            try:
                write_file(path, "".join(line + "\n" for line in answer_lines(run, side)))
            except OSError as cause:
                raise unwritable(path, cause) from cause
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(PROG, main)
