"""Faults for as long as you like: the long forms of tests/faults.

soak serves the demo's targets over HTTP and in a program in C at once, under clients that ask, leave and err, while
the clock jumps, cores and memory are taken away, bundles are rebuilt and caches vanish. Texts that were known before
must stay the same, counters must equal the clients' own count, and memory, open files and threads must be flat.
Ctrl-C ends it early, with its report.
kills builds, compiles, trains, evaluates, serves and loads, killed (-9) at random moments: the result must be that of
the same work left alone, and nothing may be left beside it.
bad-input types bad input at the commands, case by case, and prints what was answered.

  python -m tests.benchmarks.faults bad-input
  python -m tests.benchmarks.faults kills --kills 200
  python -m tests.benchmarks.faults soak --minutes 360
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from s2d_trt.cli import ArgumentParser, positive_int, run_command
from tests.benchmarks.faults import bad_input, kills, soak
from tests.benchmarks.tables import table_lines, write_report

PROG = "python -m tests.benchmarks.faults"


def main(argv: Sequence[str]) -> None:
    """Inject faults and print a table."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("what", choices=("bad-input", "kills", "soak"))
    parser.add_argument("--minutes", type=float, default=360.0, help="of the soak (%(default)g)")
    parser.add_argument("--kills", type=positive_int, default=200, help="of all the work (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/faults"), metavar="PATH", help="(%(default)s)")
    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.what == "soak":
        rows = soak.measure(arguments.minutes, arguments.seed, arguments.out.with_suffix(".jsonl"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            demo = kills.demo_bundles(Path(folder))
            if arguments.what == "kills":
                rows = kills.measure(arguments.kills, demo, Path(folder))
            else:
                rows = bad_input.measure(demo, kills.DEMO / "target-6m", Path(folder))
    lines = table_lines(f"Faults: {arguments.what}", rows)
    print("\n".join(lines))
    write_report(arguments.out, lines, rows)


if __name__ == "__main__":
    run_command(PROG, main)
