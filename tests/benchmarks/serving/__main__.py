"""The HTTP server under load: is every text the target's own, what does HTTP cost, does it last?

identity compares served texts with those of the target alone, at 1, 8 and 32 clients, with random cancellations.
cost runs the same texts bare and served in turns: the share of the time, and how much later the first token comes.
soak asks, leaves and errs at random for some minutes; then the server's counters must equal the clients' own count,
no text, open file or thread may be left, and memory must be flat. It needs two targets: one whose clients stay, one
whose clients leave.
replicas compares two replicas of one thread, on Ray, with one server of two, and kills one while it streams.
Each starts the server in a process of its own.

  python -m tests.benchmarks.serving identity --target target-17m,target-6m
  python -m tests.benchmarks.serving cost --target target-17m
  python -m tests.benchmarks.serving soak --target target-17m,target-6m --minutes 30
  python -m tests.benchmarks.serving replicas --target target-17m,target-6m
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError
from tests.benchmarks.serving import cost, identity, replicas, soak
from tests.benchmarks.tables import table_lines, write_report

PROG = "python -m tests.benchmarks.serving"


def main(argv: Sequence[str]) -> None:
    """Measure one thing and print its table."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("what", choices=("identity", "cost", "soak", "replicas"))
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--draft", default="draft", help="draft bundle (%(default)s)")
    parser.add_argument("--texts", type=positive_int, default=16, help="of each target (%(default)s)")
    parser.add_argument("--new", type=positive_int, default=48, help="most new tokens of a text (%(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=4, help="of all texts (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak (%(default)g)")
    parser.add_argument("--sequences", type=positive_int, default=8, help="of the server (%(default)s)")
    parser.add_argument("--threads", type=positive_int, help="of the server (default: the physical cores)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.md and PATH.json")
    arguments = parser.parse_args(argv)
    targets, draft, new = arguments.target.split(","), arguments.draft, arguments.new
    options = ["--sequences", str(arguments.sequences)]
    options += ["--threads", str(arguments.threads)] if arguments.threads else []
    if arguments.what == "soak":
        if len(targets) < 2 or arguments.minutes <= 0:
            raise OptionError("a soak needs two targets, and --minutes above 0")
        rows = soak.measure(targets[:2], draft, arguments.minutes, new, arguments.seed, options)
    elif arguments.what == "cost":
        rows = cost.measure(targets[0], draft, arguments.texts, new, arguments.repeats, arguments.threads)
    elif arguments.what == "replicas":
        rows = replicas.measure(targets, draft, arguments.texts, new, arguments.repeats, arguments.sequences)
    else:
        rows = identity.measure(targets, draft, arguments.texts, new, arguments.repeats, arguments.seed, options)
    lines = table_lines(f"Serving: {arguments.what}", rows)
    print("\n".join(lines))
    if arguments.out is not None:
        write_report(arguments.out, lines, rows)


if __name__ == "__main__":
    run_command(PROG, main)
