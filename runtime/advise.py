"""Say what a million tokens cost at each setting, the best setting, and the best next change.

Targets, drafts, devices, threads, policies and numbers of texts are combined; each combination is predicted from a few
recorded texts and from what calls cost here. Name bundles of several precisions, or built for several backends, to
compare them. The first of each list is what you have now.

  python -m runtime.advise --price 1.20 --target target-17m --prompts demo --limit 8
  python -m runtime.advise --price 1.20 --target t-fp32,t-int8 --draft d-fp32,d-int8 --thread-counts 1,2 \\
      --lanes 1,4,8 --prompts demo --limit 8 --most-ms 20
  python -m runtime.advise --price 1.20 --target target-17m --prompts demo --limit 8 --load requests.csv --season 24

A load file has one rate a line (tokens a second, at even intervals); the forecast says when this machine is full.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from runtime.backends.placement import Device, Placement
from runtime.commands.recorded import note
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.advice import Setting, cheapest, next_changes, pareto
from runtime.evaluation.forecast import backtest, intervals_to_saturation, read_rates
from runtime.evaluation.prediction import predict
from runtime.evaluation.prompts import encoded, load_prompts
from runtime.evaluation.replay.probes import measured_prices
from runtime.evaluation.replay.recorder import Recorder
from runtime.machine.processor import physical_cores
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from s2d_trt.cli import ArgumentParser, comma_ints, positive_int, run_command
from s2d_trt.errors import OptionError, TokenizerMismatchError
from s2d_trt.files import write_result

PROG = "python -m runtime.advise"
POLICIES = {
    "adaptive": Policy(),
    "adaptive without lookup": Policy(lookup=False),
    "published thresholds": Policy(FixedThresholds()),
}
SHOWN = 3


def main(argv: Sequence[str]) -> None:
    """Predict every combination and report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--price", type=float, required=True, help="of an hour of this machine, like 1.20")
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--draft", default="draft", help="draft bundles, separated by commas (%(default)s)")
    parser.add_argument("--prompts", required=True, help="JSON lines, or demo")
    parser.add_argument("--limit", type=positive_int, default=8, help="use only the first prompts (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (the default)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=64, help="of each text (%(default)s)")
    parser.add_argument("--devices", metavar="D,D,...", help="cpu, cuda, cuda:N (default: what each bundle is for)")
    parser.add_argument("--thread-counts", type=comma_ints, metavar="N,N,...", help="CPU threads (the physical cores)")
    parser.add_argument("--lanes", type=comma_ints, default=(1, 2, 4, 8), metavar="N,N,...", help="texts at a time")
    parser.add_argument("--most-ms", type=float, metavar="MS", help="most milliseconds a token of one text")
    parser.add_argument("--load", type=Path, metavar="FILE", help="recorded load, tokens a second, one number a line")
    parser.add_argument("--season", type=positive_int, default=24, help="intervals until load repeats (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to a file")
    arguments = parser.parse_args(argv)
    counts = (*arguments.lanes, *(arguments.thread_counts or (1,)))
    if arguments.price <= 0 or min(counts) < 1:
        raise OptionError("the price must be above 0, --lanes and --thread-counts at least 1")
    rates = read_rates(arguments.load) if arguments.load is not None else None
    settings = list(_settings(arguments))
    if not settings:
        raise OptionError("no draft fits any of the targets on these devices; name drafts with the targets' tokenizer")
    print("\n".join(report_lines(settings, arguments)))
    if rates is not None:
        print(load_line(rates, arguments.season, max(each.tokens_per_second for each in settings)))
    if arguments.json is not None:
        _write_json(settings, arguments)


def _settings(arguments: Namespace) -> Iterator[Setting]:
    prompts = load_prompts(arguments.prompts, arguments.limit)
    options = Options(max_new_tokens=arguments.max_new_tokens, sampling=Sampling(arguments.temperature, seed=0))
    devices = [Device.parse(each) for each in arguments.devices.split(",")] if arguments.devices else [None]
    for device, threads in product(devices, arguments.thread_counts or (None,)):
        placement = Placement(device=device, threads=threads)
        for target in arguments.target.split(","):
            plain: set[int] = set()
            for draft in arguments.draft.split(","):
                note(f"{target} with {draft}, {threads or 'all'} threads")
                try:
                    decoder = Decoder.open(target, draft, placement)
                except TokenizerMismatchError:
                    continue
                except OptionError as refused:  # int8 is for CPUs, for one
                    if len(devices) == 1:
                        raise
                    print(f"left out: {refused}", file=sys.stderr)
                    continue
                fitting = encoded(decoder, prompts, options)
                if not fitting:
                    raise OptionError(f"none of the prompts fits target {target}; use shorter prompts")
                yield from _predicted(decoder, fitting, options, arguments.lanes, placement, plain)


def _predicted(
    decoder: Decoder,
    prompts: Sequence[tuple[str, Sequence[int]]],
    options: Options,
    lanes: Sequence[int],
    placement: Placement,
    plain: set[int],
) -> Iterator[Setting]:
    """Every policy and number of texts of one pair; plain decoding once a target."""
    recorder = Recorder(decoder)
    recording = recorder.record(prompts, options)
    prices = measured_prices(recorder, recording, options, lanes)
    assert decoder.draft is not None
    target, threads = decoder.target, placement.threads or physical_cores()
    device = target.engine.device if isinstance(target, Target) else "TensorRT-LLM"
    any_policy = Setting(target.name, decoder.draft.name, "", device, threads, 1, 1.0)
    for count in lanes:
        for name, policy in POLICIES.items():
            each = predict(recorder, recording, prices, policy, count, target.exact_by_default)
            yield replace(any_policy, policy=name, lanes=count, tokens_per_second=each.tokens_per_second)
        if count not in plain:
            plain.add(count)
            yield replace(any_policy, policy="plain", lanes=count, tokens_per_second=each.alone_per_second)


def report_lines(settings: Sequence[Setting], arguments: Namespace) -> list[str]:
    """The front, the best and the next changes."""
    price, current = arguments.price, settings[0]

    def line(setting: Setting) -> str:
        return f"{setting.cost(price):>9.4f} a million tokens, {setting.ms_per_token:>7.2f} ms a token: {setting}"

    best = cheapest(settings, arguments.most_ms)
    lines = [f"{len(settings)} settings; nothing is both cheaper and faster than these:", *map(line, pareto(settings))]
    lines += [f"now:  {line(current)}", f"best: {line(best)}"]
    changes = next_changes(current, settings)
    lines += [f"next change: {change}" for change in changes[:SHOWN]] or ["no single change is cheaper"]
    return lines


def load_line(rates: Sequence[float], season: int, capacity: float) -> str:
    """When the load reaches what the best setting serves, and how far such forecasts were off."""
    after = intervals_to_saturation(rates, season, capacity)
    when = f"reached in {after} intervals" if after is not None else "not reached in sight"
    error = f"; forecasts of one season were {backtest(rates, season):.0%} off" if len(rates) >= 3 * season else ""
    return f"load: {capacity:.0f} tokens/s are {when}{error}"


def _write_json(settings: Sequence[Setting], arguments: Namespace) -> None:
    front = pareto(settings)
    rows = [
        {
            "setting": str(each),
            "ms_per_token": each.ms_per_token,
            "cost_per_million": each.cost(arguments.price),
            "tokens_per_second": each.tokens_per_second,
            "on_front": each in front,
        }
        for each in settings
    ]
    write_result(arguments.json, json.dumps({"price": arguments.price, "settings": rows}, indent=1) + "\n")
    print(f"wrote {arguments.json}")


if __name__ == "__main__":
    run_command(PROG, main)
