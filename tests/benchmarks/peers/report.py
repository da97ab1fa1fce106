"""The report of a comparison: tables on stdout, then peers.md, peers.json and a plot for each temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime import Target
from s2d_trt import __version__
from s2d_trt.bundle import Bundle
from tests.benchmarks.bandwidth import bytes_per_token, read_bandwidth
from tests.benchmarks.internals import Placement, processor_identity
from tests.benchmarks.peers.catalogue import OURS
from tests.benchmarks.peers.measure import Job, Outcome
from tests.benchmarks.peers.result import Margin, batch_tables, best_modes, rows
from tests.benchmarks.tables import plot_bars, plot_lines, table_lines, write_report


class Report:
    """A report in the folder ``out``; ``title`` is the target's name."""

    def __init__(self, out: Path, title: str, threads: int) -> None:
        self._out, self._title, self._threads = out, title, threads
        self._lines: list[str] = []
        self._machine = _machine(threads)
        self._temperatures: dict[str, Any] = {}
        for name, value in self._machine.items():
            self.note(f"{name}: {value}")

    def note(self, line: str) -> None:
        """Add a line above the tables."""
        self._show([f"- {line}"])

    def add(self, outcomes: Sequence[Outcome], job: Job) -> None:
        """Add the tables and the plot of one temperature."""
        title = f"temperature {job.temperature:g}"
        batches = any(each.contender.texts is not None for each in outcomes)
        margin = _margin(outcomes, job.threads)
        if batches:
            tables = batch_tables(title, outcomes, job.prompts, job.temperature, margin)
        else:
            tables = {
                title: rows(outcomes, job.prompts, job.temperature, margin),
                f"{title}: fastest modes": best_modes(outcomes),
                f"{title}: target alone and the memory's limit": _limits(outcomes, job.threads),
            }
        for name, table in tables.items():
            if table:
                self._show(table_lines(name, table))
        self._temperatures[f"{job.temperature:g}"] = {"tables": tables, "answers": _answers(outcomes)}
        measured = [each for each in outcomes if each.rounds]
        path, heading = self._out / f"peers-t{job.temperature:g}.svg", f"{self._title}, {title}"
        if measured and batches:
            plot_lines(path, heading, "texts at once", "tokens/s of all", _lines(measured))
        elif measured:
            bars = [(each.contender.name, each.speed, min(each.speeds), max(each.speeds)) for each in measured]
            plot_bars(path, heading, "tokens/s", bars)

    def write(self) -> None:
        """Write everything added so far."""
        data = {"machine": self._machine, "temperatures": self._temperatures}
        write_report(self._out / "peers", self._lines, data)

    def _show(self, lines: list[str]) -> None:
        self._lines += lines
        print("\n".join(lines), flush=True)


def _machine(threads: int) -> dict[str, str]:
    return {
        "processor": processor_identity().splitlines()[0],
        "threads": str(threads),
        "reads": f"{read_bandwidth(threads) / 1e9:.1f} GB/s with them",
        "s2d-trt": __version__,
    }


def _fp32(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next(
        (
            each
            for each in outcomes
            if (each.contender.peer, each.contender.precision, each.contender.mode) == (OURS, "fp32", "alone")
            and each.rounds
        ),
        None,
    )


def _margin(outcomes: Sequence[Outcome], threads: int) -> Margin:
    """Compares two tokens by the fp32 target's logits at the first difference; loads the target at the first call."""
    reference = _fp32(outcomes)
    loaded: list[Target] = []

    def margin(prompt: list[int], one: list[int], other: list[int]) -> float:
        common = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if common is None or reference is None:
            return float("inf")
        if not loaded:
            loaded.append(Target.open(reference.contender.models["target"].directory, Placement(threads=threads)))
        sequence = loaded[0].lease()
        try:
            logits = sequence.prefill([*prompt, *other[:common]])
            return float(abs(logits[one[common]] - logits[other[common]]))
        finally:
            loaded[0].release(sequence)

    return margin


def _lines(outcomes: Sequence[Outcome]) -> dict[str, tuple[list[float], list[float]]]:
    """For each mode its numbers of texts and the speeds there."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for each in sorted(outcomes, key=lambda outcome: outcome.contender.texts or 0):
        numbers, speeds = lines.setdefault(each.contender.label, ([], []))
        numbers.append(each.contender.texts or 0)
        speeds.append(each.speed)
    return lines


def _limits(outcomes: Sequence[Outcome], threads: int) -> list[dict[str, Any]]:
    """For each of our targets alone: the time of a token after prefill, and that of reading the weights once."""
    found = []
    bandwidth = read_bandwidth(threads)
    for each in outcomes:
        if each.contender.peer != OURS or each.contender.speculates or not each.rounds:
            continue
        answers = [answer for answers in each.rounds for answer in answers if len(answer.tokens) > 1]
        if not answers:
            continue
        milliseconds = min((a.seconds - a.figures["prefill"]) / (len(a.tokens) - 1) for a in answers) * 1e3
        weights = bytes_per_token(Bundle.open(each.contender.models["target"].directory))
        limit = weights / bandwidth * 1e3
        found.append(
            {
                "weights": each.contender.precision,
                "MB a token": weights / 1e6,
                "ms a token, fastest prompt": milliseconds,
                "ms to read the weights": limit,
                "above the limit": f"{milliseconds / limit - 1:.0%}",
            }
        )
    return found


def _answers(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "name": outcome.contender.name,
            "failure": outcome.failure,
            "rounds": [
                [{"tokens": a.tokens, "seconds": a.seconds, "figures": a.figures} for a in answers]
                for answers in outcome.rounds
            ],
        }
        for outcome in outcomes
    ]
