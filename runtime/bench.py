"""Measure a sorted draft: the target alone and S2D in turn, on the same engine and prompts.

For each target and temperature: tokens/s of both, the speed-up as Spec-Bench defines it (ratio of the
mean speeds), mean accepted tokens, how many outputs are identical, and the share of S2D's time spent
outside engine calls. The target alone runs at its fastest; every second prompt it goes first.

  python -m runtime.bench --target target-17m --prompts demo
  python -m runtime.bench --target target-17m,target-6m --prompts demo --temperature 0,1 --tree paper
  python -m runtime.bench --target target-17m --prompts question.jsonl --limit 20 --json out.json
  python -m runtime.bench --target target-17m --prompts demo --lanes 1,2,4,8

With --lanes, so many texts run at a time: tokens/s of all together, drafted and not, over taking turns.

Prompts are {"prompt": ...} lines or Spec-Bench question lines; "demo" is a shipped set that no demo
checkpoint was trained on.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from runtime.commands.arguments import (
    NO_DRAFT,
    add_constraint_arguments,
    add_drafting_arguments,
    add_engine_arguments,
    add_sampling_arguments,
    decoding_options,
    placement,
    prepare,
)
from runtime.commands.report import describe
from runtime.commands.throughput import throughputs
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import Comparison, compare_with_target, generate, target_alone, warm_up
from runtime.evaluation.prompts import Prompt, load_prompts
from runtime.targets import open_target
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, comma_ints, positive_int, run_command
from s2d_trt.errors import CapacityError, OptionError

PROG = "python -m runtime.bench"
ROUNDING = 1e-3
"""A margin of the scores below this is of rounding size."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One turn by S2D and by the target alone."""

    category: str
    drafted: Request
    alone: Request
    comparison: Comparison


@dataclass(slots=True)
class Result:
    """All turns of one target at one temperature."""

    target: str
    temperature: float
    pairs: list[Pair] = field(default_factory=list)
    skipped: int = 0

    def summary(self) -> dict[str, Any]:
        """The figures of the report."""
        drafted = [pair.drafted for pair in self.pairs]
        ours = [request.tokens_per_second for request in drafted]
        theirs = [pair.alone.tokens_per_second for pair in self.pairs]
        by_category: dict[str, list[float]] = {}
        for pair, a, b in zip(self.pairs, ours, theirs, strict=True):
            by_category.setdefault(pair.category, []).append(a / b)
        ratios = sorted(ratio for group in by_category.values() for ratio in group)
        lengths = [length for request in drafted for length in request.stats.accept_lengths]
        exits = sum((request.stats.exit_counts for request in drafted), start=Counter[int]())
        different = [pair.comparison for pair in self.pairs if not pair.comparison.identical]
        return {
            "target": self.target,
            "temperature": self.temperature,
            "prompts": len(self.pairs),
            "skipped": self.skipped,
            "tokens_per_second": {"alone": fmean(theirs), "s2d": fmean(ours)},
            "speedup": fmean(ours) / fmean(theirs),
            "speedup_by_prompt": {"min": ratios[0], "median": median(ratios), "max": ratios[-1]},
            "speedup_by_category": {name: median(group) for name, group in sorted(by_category.items())},
            "mean_accepted_tokens": fmean(lengths) if lengths else 0.0,
            "exit_shares": {str(exit_): count / exits.total() for exit_, count in sorted(exits.items())},
            "identical": len(self.pairs) - len(different),
            "bit_identical": sum(pair.comparison.bits for pair in self.pairs),
            "differences": [{"position": comparison.position, "margin": comparison.margin} for comparison in different],
            "overhead": sum(r.stats.other for r in drafted) / sum(r.stats.total for r in drafted),
            "seconds": {
                part: sum(getattr(request.stats, part) for request in drafted)
                for part in ("prefill", "draft", "verify", "other")
            },
        }


def run_prompts(decoder: Decoder, prompts: Sequence[Prompt], options: Options, temperature: float) -> Result:
    """Answer every turn with S2D and with the target alone; turns that do not fit are counted as skipped."""
    result = Result(decoder.target.name, temperature)
    turns = sum(len(prompt.turns) for prompt in prompts)
    warm = False
    for prompt in prompts:
        text = ""
        for turn in prompt.turns:
            text += turn
            try:
                ids = decoder.request(text, options).prompt
            except CapacityError:
                result.skipped += 1
                continue
            if not warm:
                warm_up(decoder, ids, options)
                warm = True
            pair = _measure(decoder, ids, options, prompt.category, alone_first=len(result.pairs) % 2 == 1)
            result.pairs.append(pair)
            text += pair.alone.text + "\n"
            _show_progress(result, turns)
    if not result.pairs:
        raise OptionError(f"none of the prompts fits target {decoder.target.name}; use shorter prompts")
    return result


def _measure(decoder: Decoder, ids: list[int], options: Options, category: str, alone_first: bool) -> Pair:
    alone = target_alone(decoder, ids, options) if alone_first else None
    drafted = generate(decoder, ids, options)
    alone = alone or target_alone(decoder, ids, options)
    return Pair(category, drafted, alone, compare_with_target(decoder, drafted, alone))


def _show_progress(result: Result, turns: int) -> None:
    if sys.stderr.isatty():
        done = len(result.pairs) + result.skipped
        end = "\n" if done == turns else ""
        print(f"\r{result.target}: {done}/{turns} prompts", end=end, file=sys.stderr, flush=True)


def report_lines(result: Result) -> list[str]:
    """The figures of one target at one temperature, in words."""
    figures = result.summary()
    speed, spread, margins = figures["tokens_per_second"], figures["speedup_by_prompt"], result.pairs
    exits = ", ".join(f"{exit_}: {share:.0%}" for exit_, share in figures["exit_shares"].items())
    lines = [
        f"{result.target}, temperature {result.temperature:g}, {figures['prompts']} prompts"
        + (f" ({result.skipped} too long, skipped)" if result.skipped else ""),
        f"  target alone    {speed['alone']:.1f} tokens/s",
        f"  S2D             {speed['s2d']:.1f} tokens/s",
        f"  speed-up        {figures['speedup']:.2f}x (by prompt: {spread['min']:.2f} to {spread['max']:.2f},"
        f" median {spread['median']:.2f}; median of the slowest of {len(figures['speedup_by_category'])} categories"
        f" {min(figures['speedup_by_category'].values()):.2f})",
        f"  mean accepted   {figures['mean_accepted_tokens']:.2f} tokens a step",
        f"  exits           {exits}",
        f"  identical       {figures['identical']}/{figures['prompts']},"
        f" {figures['bit_identical']} with scores equal in every bit",
        f"  overhead        {figures['overhead']:.1%} of the time outside engine calls",
    ]
    for number, pair in enumerate(margins, 1):
        if not pair.comparison.identical:
            margin = pair.comparison.margin
            size = " (rounding size)" if margin is not None and margin < ROUNDING else ""
            lines.append(f"    prompt {number}: {describe(pair.comparison)}{size}")
    return lines


def main(argv: Sequence[str]) -> None:
    """Load each target beside one shared draft, measure, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--prompts", required=True, help="JSON lines, or demo")
    parser.add_argument("--limit", type=positive_int, help="use only the first prompts")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure to a file")
    group = parser.add_argument_group("several texts at a time")
    group.add_argument("--lanes", type=comma_ints, metavar="N,N,...", help="measure with so many texts, like 1,2,4,8")
    group.add_argument("--rounds", type=positive_int, default=3, help="with --lanes: how often (%(default)s)")
    group.add_argument(
        "--prompt-tokens", type=positive_int, metavar="N", help="with --lanes: cut prompts to the last N"
    )
    group.add_argument(
        "--cached-prompts",
        action="store_true",
        help="with --lanes: prompts are computed beforehand (measures decoding)",
    )
    add_engine_arguments(parser)
    add_sampling_arguments(parser)
    add_constraint_arguments(parser)
    add_drafting_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.lanes is not None and min(arguments.lanes) < 1:
        raise OptionError("--lanes are numbers of texts, at least 1")
    if arguments.json is not None and (arguments.json.is_dir() or not arguments.json.resolve().parent.is_dir()):
        raise OptionError(f"{arguments.json} is a folder or lies in no existing folder; name a file to write")
    if len(set(arguments.temperature)) < len(arguments.temperature):
        raise OptionError("--temperature names one twice; name each once")
    # Both runs of a prompt must share their noise.
    arguments.seed = 0 if arguments.seed is None else arguments.seed

    runs = [(temperature, decoding_options(arguments, temperature)) for temperature in arguments.temperature]
    prompts = load_prompts(arguments.prompts, arguments.limit)
    location, verify = placement(arguments), arguments.verify
    draft = None if arguments.draft == NO_DRAFT else SortedDraft.open(find_bundle(arguments.draft), location, verify)
    decoders = [Decoder(open_target(name, location, verify), draft) for name in arguments.target.split(",")]
    results: list[Any] = []
    for decoder in decoders:
        # A temperature changes nothing of what is checked and measured.
        prepare(decoder, arguments, runs[0][1], sequences=max(arguments.lanes or (1,)))
        if arguments.lanes is not None:
            results += throughputs(decoder, prompts, runs, arguments)
            continue
        for temperature, options in runs:
            results.append(run_prompts(decoder, prompts, options, temperature))
            print("\n".join(report_lines(results[-1])), flush=True)
    if arguments.json is not None:
        details = [_detail(result) if isinstance(result, Result) else result for result in results]
        arguments.json.write_text(json.dumps(details, indent=1) + "\n")
        print(f"wrote {arguments.json}")


def _detail(result: Result) -> dict[str, Any]:
    turns = [
        {
            "category": pair.category,
            "prompt_tokens": len(pair.drafted.prompt),
            "tokens": pair.drafted.tokens,
            "finish_reason": pair.drafted.finish_reason,
            "accept_lengths": pair.drafted.stats.accept_lengths,
            "wall_time": {"s2d": pair.drafted.stats.total, "alone": pair.alone.stats.total},
            "identical": pair.comparison.identical,
            "bit_identical": pair.comparison.bits,
        }
        for pair in result.pairs
    ]
    return {**result.summary(), "turns": turns}


if __name__ == "__main__":
    run_command(PROG, main)
