"""Other engines on the same checkpoints, beside ours: speeds in one run, tokens checked.

transformers, onnxruntime-genai and openvino-genai are installed from the package index, pinned, each in an environment
of its own in the user's cache, and convert the checkpoints themselves; both are kept for the next run. Every mode of
every peer answers the same prompts with the same number of threads, in turn, round after round. Peers use their own
ways to speculate, with the draft truncated to its shallowest and to its deepest exit.

  python -m runtime.benchmarks.peers --out peers
  python -m runtime.benchmarks.peers --target big/target --draft big/draft --rounds 3 --temperature 0,1 --out peers
  python -m runtime.benchmarks.peers --peers openvino-genai --precisions fp32 --limit 2 --rounds 1 --out peers

OUT becomes a folder with peers.md, peers.json and a plot for each temperature (with matplotlib: pip install -e
'.[bench]'). A peer that cannot be installed, converted or run is a row that says why.
"""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.backends.processor import physical_cores
from runtime.benchmarks.bandwidth import bytes_per_token, read_bandwidth
from runtime.benchmarks.peers.catalogue import OURS, PEERS, Pair, ours
from runtime.benchmarks.peers.measure import Job, Outcome, measure, prepare, progress
from runtime.benchmarks.peers.process import ending_children
from runtime.benchmarks.peers.result import Margin, best_modes, rows
from runtime.benchmarks.tables import plot_bars, table_lines
from runtime.placement import Placement
from runtime.prompts import load_prompts
from runtime.target import Target
from runtime.tokenizer import load_tokenizer
from s2d_trt import __version__
from s2d_trt.bundle import Bundle
from s2d_trt.cli import ArgumentParser, comma_floats, comma_ints, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.benchmarks.peers"
DEMO = Path("engines/demo")
PRECISIONS = ("fp32", "int8")


def main(argv: Sequence[str]) -> None:
    """Install, convert, measure, report."""
    options = _parse(argv)
    with ending_children():
        _compare(options)


def _compare(options: Namespace) -> None:
    pair = Pair.open(options.target, options.draft, options.exits)
    contenders = list(ours(pair, options.precisions))
    for peer in options.peers:
        contenders += PEERS[peer](pair)
    prompts = _encoded(pair, options.prompts, options.limit, options.max_new_tokens)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = _machine(options.threads)
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines.append(f"- {len(prompts)} prompts, {options.max_new_tokens} new tokens each, {options.rounds} rounds")
    print("\n".join(lines), flush=True)
    report: dict[str, Any] = {"machine": machine, "temperatures": {}}
    outcomes = prepare(contenders)
    for temperature in options.temperature:
        fresh = [Outcome(each.contender, failure=each.failure) for each in outcomes]
        job = Job(prompts, options.max_new_tokens, options.threads, temperature, options.timeout)
        measure(fresh, job, options.rounds, progress)
        found = rows(fresh, prompts, temperature, _margin(fresh, options.threads))
        title = f"temperature {temperature:g}"
        tables = [(title, found), (f"{title}: fastest modes", best_modes(fresh))]
        tables.append((f"{title}: target alone and the memory's limit", _limits(fresh, options.threads)))
        for name, table in tables:
            if table:
                lines += table_lines(name, table)
                print("\n".join(table_lines(name, table)), flush=True)
        report["temperatures"][f"{temperature:g}"] = {"tables": dict(tables), "answers": _answers(fresh)}
        bars = [(each.contender.name, each.speed, min(each.speeds), max(each.speeds)) for each in fresh if each.rounds]
        if bars:
            plot_bars(options.out / f"peers-t{temperature:g}.svg", f"{options.target.name}, {title}", "tokens/s", bars)
    (options.out / "peers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.out / 'peers.md'} and peers.json")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument(
        "--target", type=Path, default=DEMO / "target-17m", metavar="DIR", help="a checkpoint (%(default)s)"
    )
    parser.add_argument("--draft", type=Path, default=DEMO / "draft", metavar="DIR", help="its draft (%(default)s)")
    parser.add_argument("--exits", type=comma_ints, help="of the draft (default: those that its config names)")
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas, or none (%(default)s)")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="of our own bundles (%(default)s)")
    parser.add_argument("--prompts", default="demo", help="JSON lines, or demo (%(default)s)")
    parser.add_argument("--limit", type=positive_int, default=8, help="use only the first prompts (%(default)s)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=64, help="of each answer (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=physical_cores(), help="default: the physical cores")
    parser.add_argument("--rounds", type=positive_int, default=3, help="(%(default)s)")
    parser.add_argument("--temperature", type=comma_floats, default=(0.0,), help="like 0,1; 0 is greedy (the default)")
    parser.add_argument("--timeout", type=positive_int, default=600, help="seconds for one answer (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for the results")
    options = parser.parse_args(argv)
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    options.precisions = tuple(options.precisions.split(","))
    for name, given, known in (("peers", options.peers, PEERS), ("precisions", options.precisions, PRECISIONS)):
        for each in given:
            if each not in known:
                raise OptionError(f"--{name} {each} is none of {', '.join(known)}; choose among them")
    if any(temperature < 0 for temperature in options.temperature):
        raise OptionError("a temperature is below 0; use 0 or more")
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out} is a file; name a folder")
    return options


def _encoded(pair: Pair, source: str, limit: int, new_tokens: int) -> list[list[int]]:
    """First turns as token ids, as the draft's tokenizer has them; those that fit every peer's context."""
    tokenizer = load_tokenizer(pair.target.directory / "tokenizer.json")
    config = json.loads((pair.target.directory / "config.json").read_text(encoding="utf-8"))
    room = int(config.get("max_position_embeddings", 2048)) - new_tokens
    texts = [tokenizer.encode(prompt.turns[0]).ids for prompt in load_prompts(source)]
    fitting = [ids for ids in texts if len(ids) <= room][:limit]
    if not fitting:
        raise OptionError(f"no prompt leaves room for {new_tokens} new tokens; lower --max-new-tokens")
    return fitting


def _machine(threads: int) -> dict[str, str]:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return {
        "processor": name,
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
    """The fp32 target judges where two texts part; it is loaded when it is first asked."""
    reference = _fp32(outcomes)
    loaded: list[Target] = []

    def margin(prompt: list[int], one: list[int], other: list[int]) -> float:
        common = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if common is None or reference is None:
            return float("inf")
        if not loaded:
            loaded.append(Target.open(reference.contender.models["target"].directory, Placement(threads=threads)))
        slot = loaded[0].lease()
        try:
            logits = slot.prefill([*prompt, *other[:common]])
            return float(abs(logits[one[common]] - logits[other[common]]))
        finally:
            loaded[0].release(slot)

    return margin


def _limits(outcomes: Sequence[Outcome], threads: int) -> list[dict[str, Any]]:
    """Of each of our targets alone: the time of a token after prefill, beside that of reading the weights once."""
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


if __name__ == "__main__":
    run_command(PROG, main)
