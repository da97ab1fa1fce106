"""Time per new token by the length of the context, the size of the tree and the size of the target.

  contexts  a token of the target alone, and of S2D, after texts up to the capacity; does the time grow linearly?
  trees     a verifying call by its number of rows
  targets   a token by the size of the target, compared with the time of reading its weights once

Texts are the shipped prompts, joined. A time is the median over calls; the tables show the quartiles too.

  python -m tests.benchmarks.scaling --target target-17m --out scaling
  python -m tests.benchmarks.scaling --target target-17m,target-6m,target-17m-int8 --draft draft --out scaling
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from runtime import Decoder, Options, Sampling, SortedDraft, Target
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError
from tests.benchmarks.bandwidth import bytes_per_token, read_bandwidth
from tests.benchmarks.internals import BundleSequence, Placement, Tree, generate, load_prompts, physical_cores
from tests.benchmarks.tables import plot_lines, table_lines, write_report

PROG = "python -m tests.benchmarks.scaling"
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Rows of the measured verifying calls."""
CONTEXT = 64
"""Tokens in the cache before these calls."""
SHORTEST = 32
NEW_TOKENS = 24
CURVED = 0.1
"""Growth is faster than linear if a parabola's square term is more than this share of the time at the capacity."""
ROUNDS = 5
Times = np.ndarray
Row = dict[str, Any]


def call_times(sequence: BundleSequence, rows: int, repeats: int) -> list[float]:
    """Milliseconds of calls with ``rows`` rows (a chain) after the text that the cache holds."""
    tree = Tree.chain([0] * rows)
    sequence.verify(tree)
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        sequence.verify(tree)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def lengths(capacity: int) -> list[int]:
    """Contexts that double from ``SHORTEST``, and the longest one that leaves room for ``NEW_TOKENS``."""
    found, length = [], SHORTEST
    while length < capacity - NEW_TOKENS:
        found.append(length)
        length *= 2
    return [*found, capacity - NEW_TOKENS]


def alone_times(target: Target, text: Sequence[int], repeats: int) -> Times:
    """Milliseconds of a call with one row, ``[rounds, lengths]``; in each round one text grows through all lengths."""
    found = []
    for _ in range(ROUNDS):
        sequence, times = target.lease(), []
        try:
            for length in lengths(target.max_length):
                sequence.prefill(text[sequence.length : length])
                times.append(median(call_times(sequence, 1, max(1, repeats // ROUNDS))))
        finally:
            target.release(sequence)
        found.append(times)
    return np.array(found)


def drafting_times(decoder: Decoder, text: Sequence[int]) -> tuple[Times, Times]:
    """Milliseconds of an S2D token, and accepted tokens, both ``[rounds, lengths]``.

    The texts of a round end with the same tokens, so that their continuations are similar.
    """
    capacity, options = decoder.target.max_length, Options(NEW_TOKENS, Sampling(seed=0))
    found, accepted = [], []
    for end in (len(text) * (number + 1) // ROUNDS for number in range(ROUNDS)):
        requests = [generate(decoder, _before(text, end, length), options) for length in lengths(capacity)]
        found.append(
            [(each.stats.total - each.stats.prefill) / max(1, len(each.tokens) - 1) * 1e3 for each in requests]
        )
        accepted.append([each.stats.mean_accepted_tokens for each in requests])
    return np.array(found), np.array(accepted)


def contexts(decoder: Decoder, text: Sequence[int], repeats: int) -> tuple[list[Row], list[Row]]:
    """A table row for each length, and one for the growth of each time."""
    target = decoder.target
    assert isinstance(target, Target)
    across = lengths(target.max_length)
    alone = alone_times(target, text, repeats)
    name = target.name
    rows: list[Row] = [
        {"target": name, "context": length, "ms alone": float(np.median(times)), "quartiles": _quartiles(times)}
        for length, times in zip(across, alone.T, strict=True)
    ]
    curves: list[Row] = [{"target": target.name, "time": "alone", **growth(across, alone)}]
    if decoder.draft is not None:
        drafted, accepted = drafting_times(decoder, text)
        for row, times, tokens in zip(rows, drafted.T, accepted.T, strict=True):
            row |= {
                "ms S2D": float(np.median(times)),
                "S2D quartiles": _quartiles(times),
                "accepted": float(np.median(tokens)),
            }
        curves.append({"target": target.name, "time": "S2D", **growth(across, drafted)})
    return rows, curves


def growth(x: Sequence[int], times: Times) -> Row:
    """Whether ``times`` ``[rounds, lengths]`` grow faster than linearly; a line and a parabola fit each round.

    They do if the parabola's square term is more than ``CURVED`` of the time at the last length in three rounds of
    four, and do not if it is less in three of four.
    """
    if len(x) < 3:
        return {"faster than linear": f"cannot tell: {len(x)} lengths fit the cache, three are needed"}
    span = x[-1] - x[0]
    lines = [np.polyfit(x, y, 1) for y in times]
    rises = [slope * span / (start + slope * x[0]) for slope, start in lines]
    shares = [np.polyfit(x, y, 2)[0] * span**2 / y[-1] for y in times]
    low, high = np.quantile(shares, (0.25, 0.75))
    return {
        "rise to the capacity": f"{median(rises):.0%}",
        "square term there": f"{low:.0%} to {high:.0%}",
        "faster than linear": "yes" if low > CURVED else "no" if high < CURVED else "cannot tell: too much noise",
    }


def trees(target: Target, text: Sequence[int], repeats: int) -> list[Row]:
    """A table row for each number of rows that the engine takes and that the cache has room for."""
    found: list[Row] = []
    with _filled(target, text) as sequence:
        most = min(target.max_rows, target.max_length - sequence.length)
        for rows in (width for width in WIDTHS if width <= most):
            times = call_times(sequence, rows, repeats)
            first = found[0]["ms"] if found else float(np.median(times))
            found.append(
                {
                    "target": target.name,
                    "rows": rows,
                    "ms": float(np.median(times)),
                    "quartiles": _quartiles(times),
                    "over one row": float(np.median(times)) / first,
                }
            )
    return found


def size(target: Target, text: Sequence[int], bandwidth: float, repeats: int) -> Row:
    """A table row for one target."""
    with _filled(target, text) as sequence:
        times = call_times(sequence, 1, repeats)
    weights = bytes_per_token(target.bundle)
    limit = weights / bandwidth * 1e3
    return {
        "target": target.name,
        "weights": target.bundle.manifest.precision,
        "MB a token": weights / 1e6,
        "ms alone": float(np.median(times)),
        "quartiles": _quartiles(times),
        "ms to read the weights": limit,
        "above the limit": f"{float(np.median(times)) / limit - 1:.0%}",
    }


@contextmanager
def _filled(target: Target, text: Sequence[int]) -> Iterator[BundleSequence]:
    """A sequence with ``CONTEXT`` tokens in its cache, or half of the cache where that is less."""
    sequence = target.lease()
    try:
        sequence.prefill(text[: min(CONTEXT, target.max_length // 2)])
        yield sequence
    finally:
        target.release(sequence)


def _before(text: Sequence[int], end: int, length: int) -> list[int]:
    """The ``length`` tokens before position ``end``; before position 0 the text repeats."""
    return [text[at % len(text)] for at in range(end - length, end)]


def _quartiles(times: Sequence[float] | Times) -> str:
    low, high = np.quantile(times, (0.25, 0.75))
    return f"{low:.3g} to {high:.3g}"


def main(argv: Sequence[str]) -> None:
    """Measure every target and write the report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--draft", help="draft bundle (default: the targets alone)")
    parser.add_argument(
        "--threads", type=positive_int, default=physical_cores(), help="(%(default)s, the physical cores)"
    )
    parser.add_argument("--repeats", type=positive_int, default=30, help="calls for each time (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for the results")
    options = parser.parse_args(argv)
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out} is a file; name a folder")
    placement = Placement(threads=options.threads)
    draft = SortedDraft.open(find_bundle(options.draft), placement) if options.draft else None
    targets = [Target.open(find_bundle(name), placement) for name in options.target.split(",")]
    options.out.mkdir(parents=True, exist_ok=True)
    bandwidth = read_bandwidth(options.threads)
    lines = [f"{options.threads} threads read {bandwidth / 1e9:.1f} GB/s"]
    print(lines[0], flush=True)
    report: dict[str, Any] = {"threads": options.threads, "bandwidth": bandwidth}
    tables: dict[str, list[Row]] = {"contexts": [], "growth": [], "trees": [], "targets": []}
    for target in targets:
        decoder = Decoder(target, draft)
        text = _text(decoder)
        found, curves = contexts(decoder, text, options.repeats)
        tables["contexts"] += found
        tables["growth"] += curves
        tables["trees"] += trees(target, text, options.repeats)
        tables["targets"].append(size(target, text, bandwidth, options.repeats))
    for title, rows in tables.items():
        table = table_lines(title, rows)
        lines += table
        print("\n".join(table), flush=True)
    _plot(options.out, tables)
    write_report(options.out / "scaling", lines, {**report, **tables})


def _text(decoder: Decoder) -> list[int]:
    """The shipped prompts, joined and repeated until they fill the target's capacity."""
    tokenizer, target = decoder.tokenizer, decoder.target
    ids = [token for prompt in load_prompts("demo") for token in tokenizer.encode(prompt.turns[0]).ids]
    known = [token for token in ids if token < target.vocab_size]
    return known * -(-target.max_length // len(known))


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
    if plot_lines(out / "contexts.svg", "a new token by context", "tokens before the new one", "ms", by_context):
        by_rows = lines(tables["trees"], "rows", lambda row: {row["target"]: row["ms"]})
        plot_lines(out / "trees.svg", "a verifying call by its rows", "rows", "ms", by_rows)


if __name__ == "__main__":
    run_command(PROG, main)
