"""Does one sorted draft serve targets of all sizes better than any single draft? (The claim of arXiv 2407.01955.)

For targets of several costs: the sorted draft with tuned thresholds and with the adaptive policy, each of its exits as
a draft of its own, and n-gram lookup alone, all replayed over recorded texts. Each is given its best depth (and
thresholds) on every second source file, and judged on the others. The hindsight plan, which knows the text, says what
could be had. An exit as a draft of its own has the layers up to it and one head, and costs as much.

Costs are this machine's, or those of a prices file. A cost factor stands for a larger target that writes the same text:
a grown checkpoint computes the same function.

  python -m tests.benchmarks.one_draft --target target-17m --prompts demo --temperature 0,1 \\
      --factors 1,5,14,46 --recording r.npz --prices p.json --rows rows.json --table table.md --plot one-draft.svg

Rows of earlier runs with the same --rows are in the table and the plot too, so that each target may have a run.
--agreement A,B,C makes each exit agree with the target that often, by giving it wrong answers: a pair whose exits
differ.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from runtime.commands.recorded import Recorded, add_recording_arguments, note
from runtime.drafting.fixed import FixedBudget, FixedPlanner, FixedThresholds
from runtime.drafting.learned import PairStatistics
from runtime.drafting.options import Policy
from runtime.evaluation.prediction import acceptance_rate
from runtime.evaluation.replay.hindsight import hindsight
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recorder import replayed
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.sweep import Settings, sweep
from runtime.evaluation.tuning import DEEPEST, Tuner
from s2d_trt.cli import ArgumentParser, comma_floats, run_command
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result

PROG = "python -m tests.benchmarks.one_draft"
NEVER, ALWAYS = 2.0, -1.0


@dataclass(frozen=True, slots=True)
class Row:
    """Speed-ups over the target alone on the texts that judge, by method; and how the plan used the exits."""

    target: str
    ms: float
    temperature: float
    speedups: dict[str, float]
    plan_exits: tuple[float, ...]


class NoDraft(FixedThresholds):
    """Lookup alone: the draft model never runs."""

    def open(self, pair: PairStatistics, temperature: float) -> FixedPlanner:
        """A budget that never drafts."""
        fixed = self.budget(pair.exits)
        return FixedPlanner(_Resting(fixed.thresholds, fixed.rule))


class _Resting(FixedBudget):
    drafts = False


def main(argv: Sequence[str]) -> None:
    """Record, replay, print."""
    parser = ArgumentParser(__doc__ or "", PROG)
    add_recording_arguments(parser)
    parser.add_argument("--factors", type=comma_floats, default=(1.0,), help="cost of the target, times (1)")
    parser.add_argument("--agreement", type=comma_floats, metavar="A,B,C", help="how often each exit is to be right")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep the rows here, behind those of earlier runs")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot as SVG")
    arguments = parser.parse_args(argv)
    recorded = Recorded(arguments)
    exits = recorded.recorder.pair.exits
    if arguments.agreement is not None:
        if len(arguments.agreement) != len(exits):
            raise OptionError(f"--agreement takes one number for each of the exits {exits}")
        recorded.recordings = [_degraded(each, arguments.agreement) for each in recorded.recordings]
    for recording in recorded.recordings:
        rates = ", ".join(f"{exit_}: {acceptance_rate(recording, index):.3f}" for index, exit_ in enumerate(exits))
        print(f"temperature {recording.temperature:g}: exits agree with the target at {rates}", flush=True)
    rows = list(_rows(recorded, arguments))
    if arguments.rows is not None:
        rows = [*_kept(arguments.rows), *rows]
        write_result(arguments.rows, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.agreement is None:
        recorded.keep()
    text = "\n".join(table(rows, exits))
    print(text)
    if arguments.table is not None:
        write_result(arguments.table, text + "\n")
    if arguments.plot is not None:
        import vl_convert

        write_result(arguments.plot, vl_convert.vegalite_to_svg(plot(rows)))


def _rows(recorded: Recorded, arguments: Namespace) -> Iterator[Row]:
    for recording in recorded.recordings:
        for factor in arguments.factors:
            note(f"temperature {recording.temperature:g}, {factor:g} times the cost")
            yield _row(recorded, recording, factor)


def _kept(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def _row(recorded: Recorded, recording: Recording, factor: float) -> Row:
    costs = recorded.prices.costs
    dearer = replace(costs, verify=tuple(factor * ms for ms in costs.verify), token=factor * costs.token)
    prices = replace(recorded.prices, costs=dearer)
    tuner = Tuner(recorded.recorder, [recording], prices)
    held, exits = recording.subset(tuner.held_out.tolist()), recording.pair.exits
    alone = sum(map(prices.alone_ms, held.texts))

    def speedup(policy: Policy) -> float:
        return alone / sum(text.milliseconds for text in replayed(recorded.recorder, held, prices, policy))

    plans = hindsight(held, prices)
    speedups = {
        f"{exit_} layers": alone / _single(recorded, recording, prices, index, tuner)
        for index, exit_ in enumerate(exits)
    } | {
        "published": speedup(Policy(FixedThresholds())),
        "tuned": speedup(tuner.thresholds()[0].policy),
        "adaptive": speedup(Policy(lookup=False)),
        "adaptive + lookup": speedup(Policy()),
        "lookup": speedup(Policy(NoDraft(), lookup=True)),
        "hindsight": alone / sum(plan.milliseconds for plan in plans),
    }
    used = np.bincount([e for plan in plans for run in plan.plan.values() for e in run], minlength=len(exits))
    label = f"{recorded.decoder.target.name} x{factor:g}" if factor != 1 else recorded.decoder.target.name
    return Row(label, dearer.verify_ms(1), recording.temperature, speedups, tuple((used / used.sum()).tolist()))


def _single(recorded: Recorded, recording: Recording, prices: Prices, exit_index: int, tuner: Tuner) -> float:
    """Milliseconds, on the texts that judge, of a draft that ends at one exit; its depth is the others' best."""
    costs = prices.costs
    # The cascade asks every exit on the way; a draft of its own asks its only head.
    segments = [
        tuple(ms - head for ms, head in zip(times, costs.head, strict=True)) if 0 < index <= exit_index else times
        for index, times in enumerate(costs.segments)
    ]
    own = replace(prices, costs=replace(costs, segments=tuple(segments)))
    exits = len(recording.pair.exits)
    thresholds = [NEVER if index < exit_index else ALWAYS for index in range(exits)]
    settings = Settings(np.array([thresholds] * (DEEPEST + 1)), np.arange(DEEPEST + 1))
    swept = sweep(recording, own, settings, recorded.recorder.complete)
    best = int(swept.tokens_per_ms(tuner.tuned.tolist()).argmax())
    return float(swept.milliseconds[best, tuner.held_out].sum())


def _degraded(recording: Recording, agreement: Sequence[float]) -> Recording:
    """The recording with wrong answers added along the text: first and second candidate change places, and the
    confidence is one that the exit had where it was wrong. What a shallow exit knows, deeper ones know too.
    """
    rng = np.random.default_rng(0)
    rates = [acceptance_rate(recording, index) for index in range(len(agreement))]
    wrong = [list(_rows_where(recording, index, right=False)) for index in range(len(agreement))]
    for record in recording.texts:
        for node in range(len(record.prompt), len(record.text) - 1):
            if node not in record.candidates:
                continue
            drawn = rng.random()
            for index, (ids, logprobs) in enumerate(record.candidates[node]):
                if int(ids[0, 0]) == record.text[node + 1] and drawn * rates[index] > agreement[index]:
                    ids, logprobs = ids.copy(), wrong[index][rng.integers(len(wrong[index]))].copy()
                    ids[0, [0, 1]] = ids[0, [1, 0]]
                    record.candidates[node][index] = ids, logprobs
    return recording


def _rows_where(recording: Recording, index: int, right: bool) -> Iterator[np.ndarray]:
    for record in recording.texts:
        for node in range(len(record.prompt), len(record.text) - 1):
            if node in record.candidates:
                ids, logprobs = record.candidates[node][index]
                if (int(ids[0, 0]) == record.text[node + 1]) is right:
                    yield logprobs


def table(rows: Sequence[Row], exits: Sequence[int]) -> list[str]:
    """A Markdown table, the mean over targets and temperatures last."""
    methods = list(rows[0].speedups)
    lines = [
        f"| target | ms a token | T | {' | '.join(methods)} | plan's exits {'/'.join(map(str, exits))} |",
        "|" + "---|" * (len(methods) + 4),
    ]
    for row in rows:
        cells = " | ".join(f"{row.speedups[method]:.2f}" for method in methods)
        shares = "/".join(f"{share:.0%}" for share in row.plan_exits)
        lines.append(f"| {row.target} | {row.ms:.1f} | {row.temperature:g} | {cells} | {shares} |")
    means = " | ".join(f"{fmean(row.speedups[method] for row in rows):.2f}" for method in methods)
    return [*lines, f"| mean | | | {means} | |"]


def plot(rows: Sequence[Row]) -> dict[str, object]:
    """Speed-up by the target's cost, a line a method and a panel a temperature."""
    values = [
        {"ms": row.ms, "T": f"temperature {row.temperature:g}", "method": method, "speedup": speedup}
        for row in rows
        for method, speedup in row.speedups.items()
    ]
    return {
        "data": {"values": values},
        "facet": {"field": "T", "title": None},
        "spec": {
            "width": 330,
            "height": 300,
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {"field": "ms", "type": "quantitative", "scale": {"type": "log"},
                      "title": "the target's milliseconds a token"},
                "y": {"field": "speedup", "type": "quantitative", "title": "speed-up", "scale": {"zero": False}},
                "color": {"field": "method", "type": "nominal", "title": None, "sort": list(rows[0].speedups)},
            },
        },
    }  # fmt: skip


if __name__ == "__main__":
    run_command(PROG, main)
