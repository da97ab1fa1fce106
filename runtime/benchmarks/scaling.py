"""Time per new token against the length of the context, the size of the tree, and the size of the target.

  contexts  a token of the target alone, and of S2D, behind texts up to the capacity; is the growth linear?
  trees     a verifying call by its rows
  targets   a token by the size of the target, beside the time that reading its weights takes

Texts are the shipped prompts, one after another. A time is the median over calls; the table shows the quartiles.

  python -m runtime.benchmarks.scaling --target target-17m --out scaling
  python -m runtime.benchmarks.scaling --target target-17m,target-6m,target-17m-int8 --draft draft --out scaling
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from runtime.backends.processor import physical_cores
from runtime.baseline import generate
from runtime.benchmarks.bandwidth import bytes_per_token, read_bandwidth
from runtime.benchmarks.tables import plot_lines, table_lines
from runtime.decoder import Decoder
from runtime.draft import SortedDraft
from runtime.placement import Placement
from runtime.prompts import load_prompts
from runtime.request import Options
from runtime.sampling import Sampling
from runtime.target import Target
from runtime.tree import Tree
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.benchmarks.scaling"
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 64
SHORTEST = 32
NEW_TOKENS = 24
CURVED = 0.1
"""Growth is faster than linear if a parabola's square term is more than this share of the time at the capacity."""
Row = dict[str, Any]


def call_times(target: Target, text: Sequence[int], rows: int, repeats: int) -> list[float]:
    """Milliseconds of calls with ``rows`` rows (a chain) behind ``text``."""
    slot = target.lease()
    tree = Tree(np.zeros(rows, np.int64), np.arange(-1, rows - 1), np.arange(rows), np.zeros(rows))
    try:
        slot.prefill(text)
        slot.verify(tree)
        found = []
        for _ in range(repeats):
            started = time.perf_counter()
            slot.verify(tree)
            found.append((time.perf_counter() - started) * 1e3)
        return found
    finally:
        target.release(slot)


def lengths(capacity: int) -> list[int]:
    """Doubling from ``SHORTEST``, and the longest context behind which ``NEW_TOKENS`` fit."""
    found, length = [], SHORTEST
    while length < capacity - NEW_TOKENS:
        found.append(length)
        length *= 2
    return [*found, capacity - NEW_TOKENS]


def contexts(decoder: Decoder, text: Sequence[int], repeats: int) -> list[Row]:
    """A row for each length: milliseconds of a call with one row, and of an S2D token over whole requests."""
    target = decoder.target
    assert isinstance(target, Target)
    found = []
    for length in lengths(target.max_length):
        alone = call_times(target, text[:length], 1, repeats)
        row: Row = {"target": target.name, "context": length, "ms alone": median(alone), "quartiles": _quartiles(alone)}
        if decoder.draft is not None and length + NEW_TOKENS <= decoder.draft.max_length:
            options = Options(NEW_TOKENS, Sampling(seed=0))
            tokens, accepted = [], []
            for start in range(0, 3 * length, length):  # three different texts of this length
                request = generate(decoder, _excerpt(text, start, length), options)
                if len(request.tokens) > 1:
                    tokens.append((request.stats.total - request.stats.prefill) / (len(request.tokens) - 1) * 1e3)
                    accepted.append(request.stats.mean_accepted_tokens)
            if tokens:
                row |= {"ms S2D": median(tokens), "S2D quartiles": _quartiles(tokens), "accepted": median(accepted)}
        found.append(row)
    return found


def growth(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, bool]:
    """How time ``y`` grows with length ``x``, and whether faster than linearly.

    A fitted line's rise over the whole range, as a share of its start; the square term of a fitted parabola at the
    end, as a share of the time there.
    """
    slope, start = np.polyfit(x, y, 1)
    square = np.polyfit(x, y, 2)[0] if len(x) > 2 else 0.0
    span = x[-1] - x[0]
    rise, share = slope * span / (start + slope * x[0]), square * span**2 / y[-1]
    return float(rise), float(share), bool(share > CURVED)


def trees(target: Target, text: Sequence[int], repeats: int) -> list[Row]:
    """A row for each number of rows."""
    found: list[Row] = []
    for rows in (width for width in WIDTHS if width <= target.max_rows):
        times = call_times(target, text[: min(CONTEXT, target.max_length // 2)], rows, repeats)
        first = found[0]["ms"] if found else median(times)
        found.append(
            {
                "target": target.name,
                "rows": rows,
                "ms": median(times),
                "quartiles": _quartiles(times),
                "over one row": median(times) / first,
            }
        )
    return found


def size(target: Target, text: Sequence[int], bandwidth: float, repeats: int) -> Row:
    """One target's row."""
    times = call_times(target, text[: min(CONTEXT, target.max_length // 2)], 1, repeats)
    weights = bytes_per_token(target.bundle)
    limit = weights / bandwidth * 1e3
    return {
        "target": target.name,
        "weights": target.bundle.manifest.precision,
        "MB a token": weights / 1e6,
        "ms alone": median(times),
        "quartiles": _quartiles(times),
        "ms to read the weights": limit,
        "above the limit": f"{median(times) / limit - 1:.0%}",
    }


def _excerpt(text: Sequence[int], start: int, length: int) -> list[int]:
    return [text[at % len(text)] for at in range(start, start + length)]


def _quartiles(times: Sequence[float]) -> str:
    low, high = np.quantile(times, (0.25, 0.75))
    return f"{low:.3g} to {high:.3g}"


def main(argv: Sequence[str]) -> None:
    """Measure every target, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--draft", help="draft bundle (default: the targets alone)")
    parser.add_argument(
        "--threads", type=positive_int, default=physical_cores(), help="(%(default)s, the physical cores)"
    )
    parser.add_argument("--repeats", type=positive_int, default=30, help="calls for a time (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for the results")
    options = parser.parse_args(argv)
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out} is a file; name a folder")
    place = Placement(threads=options.threads)
    draft = SortedDraft.open(find_bundle(options.draft), place) if options.draft else None
    targets = [Target.open(find_bundle(name), place) for name in options.target.split(",")]
    options.out.mkdir(parents=True, exist_ok=True)
    bandwidth = read_bandwidth(options.threads)
    lines = [f"{options.threads} threads read {bandwidth / 1e9:.1f} GB/s"]
    print(lines[0], flush=True)
    report: dict[str, Any] = {"threads": options.threads, "bandwidth": bandwidth}
    tables: dict[str, list[Row]] = {"contexts": [], "growth": [], "trees": [], "targets": []}
    for target in targets:
        decoder = Decoder(target, draft)
        text = _text(decoder, 3 * target.max_length)
        found = contexts(decoder, text, options.repeats)
        tables["contexts"] += found
        for what in ("ms alone", "ms S2D"):
            points = [(row["context"], row[what]) for row in found if what in row]
            if len(points) > 1:
                rise, share, curved = growth(*map(list, zip(*points, strict=True)))
                tables["growth"].append(
                    {
                        "target": target.name,
                        "time": what,
                        "rise to the capacity": f"{rise:.0%}",
                        "of the last a parabola's square": f"{share:.0%}",
                        "faster than linear": "yes" if curved else "no",
                    }
                )
        tables["trees"] += trees(target, text, options.repeats)
        tables["targets"].append(size(target, text, bandwidth, options.repeats))
    for title, rows in tables.items():
        lines += table_lines(title, rows)
        print("\n".join(table_lines(title, rows)), flush=True)
    _plot(options.out, tables)
    (options.out / "scaling.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / "scaling.json").write_text(json.dumps({**report, **tables}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.out / 'scaling.md'} and scaling.json")


def _text(decoder: Decoder, length: int) -> list[int]:
    """The shipped prompts, one after another, as often as it takes."""
    tokenizer = decoder.tokenizer
    ids = [token for prompt in load_prompts("demo") for token in tokenizer.encode(prompt.turns[0]).ids]
    return _excerpt([token for token in ids if token < decoder.target.vocab_size], 0, length)


def _plot(out: Path, tables: dict[str, list[Row]]) -> None:
    def lines(rows: list[Row], across: str, names: Callable[[Row], dict[str, float]]) -> dict[str, Any]:
        found: dict[str, tuple[list[float], list[float]]] = {}
        for row in rows:
            for name, value in names(row).items():
                x, y = found.setdefault(name, ([], []))
                x.append(row[across])
                y.append(value)
        return found

    by_context = lines(
        tables["contexts"],
        "context",
        lambda row: {f"{row['target']} {kind}": row[f"ms {kind}"] for kind in ("alone", "S2D") if f"ms {kind}" in row},
    )
    if plot_lines(out / "contexts.svg", "a new token by context", "tokens before it", "ms", by_context):
        by_rows = lines(tables["trees"], "rows", lambda row: {row["target"]: row["ms"]})
        plot_lines(out / "trees.svg", "a verifying call by its rows", "rows", "ms", by_rows)


if __name__ == "__main__":
    run_command(PROG, main)
