"""Compare speed and tokens with other libraries on the same checkpoints, in one run.

transformers, onnxruntime-genai and openvino-genai are installed from the package index, pinned, each in a virtual
environment of its own in the user's cache. Each converts the checkpoints with its own tools; environments and converted
checkpoints are kept for the next run. Every mode of every library generates from the same prompts with the same number
of threads, in turn, round after round. The libraries use their own speculative decoding, with the draft cut after its
first and after its last exit.

  python -m tests.benchmarks.peers --out peers
  python -m tests.benchmarks.peers --target big/target --draft big/draft --rounds 3 --temperature 0,1 --out peers
  python -m tests.benchmarks.peers --peers openvino-genai --precisions fp32 --limit 2 --rounds 1 --out peers
  python -m tests.benchmarks.peers --peers openvino-genai,onnxruntime-genai --texts 1,2,4,8 --limit 16 --out peers

With --texts the modes that can answer several prompts in one call do so, in groups of each size, at our bundles'
precisions; the figure is all new tokens over the wall time of the whole set. Without it prompts come one by one.

OUT becomes a folder with peers.md, peers.json and, with matplotlib (pip install -e '.[bench]'), a plot for each
temperature. A library that cannot be installed, converted or run is a row with the reason.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from s2d_trt.cli import ArgumentParser, comma_floats, comma_ints, positive_int, run_command
from s2d_trt.errors import CheckpointError, OptionError
from tests.benchmarks.internals import load_prompts, load_tokenizer, physical_cores
from tests.benchmarks.peers.catalogue import PEERS, Pair, batched, ours
from tests.benchmarks.peers.measure import Job, Outcome, measure, prepare, progress
from tests.benchmarks.peers.process import ending_children
from tests.benchmarks.peers.report import Report

PROG = "python -m tests.benchmarks.peers"
DEMO = Path("engines/demo")
PRECISIONS = ("fp32", "int8")


def main(argv: Sequence[str]) -> None:
    """Install, convert, measure and write the report."""
    options = _parse(argv)
    with ending_children():
        _compare(options)


def _compare(options: Namespace) -> None:
    pair = Pair.open(options.target, options.draft, options.exits)
    if options.texts:
        contenders = list(batched(pair, options.peers, options.precisions))
    else:
        contenders = list(ours(pair, options.precisions))
        for peer in options.peers:
            contenders += PEERS[peer](pair)
    prompts = _encoded(pair, options.prompts, options.limit, options.max_new_tokens)
    for texts in options.texts:
        if len(prompts) % texts:
            raise OptionError(f"{len(prompts)} prompts do not make groups of {texts}; change --limit or --texts")
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out, options.target.name, options.threads)
    report.note(f"{len(prompts)} prompts, {options.max_new_tokens} new tokens each, {options.rounds} rounds")
    outcomes = prepare(contenders)
    for temperature in options.temperature:
        # All modes with one number of texts, then all with the next: what is compared runs close together.
        fresh = [
            Outcome(each.contender.at_once(texts), failure=each.failure)
            for texts in options.texts or (None,)
            for each in outcomes
        ]
        job = Job(prompts, options.max_new_tokens, options.threads, temperature, options.timeout)
        try:
            measure(fresh, job, options.rounds, progress)
        finally:  # an interrupted run keeps the finished rounds
            report.add(fresh, job)
            report.write()


def _parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument(
        "--target", type=Path, default=DEMO / "target-17m", metavar="DIR", help="a checkpoint (%(default)s)"
    )
    parser.add_argument("--draft", type=Path, default=DEMO / "draft", metavar="DIR", help="its draft (%(default)s)")
    parser.add_argument("--exits", type=comma_ints, help="of the draft (default: those that its config names)")
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas, or none (%(default)s)")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="of our own bundles (%(default)s)")
    parser.add_argument(
        "--texts", type=comma_ints, default=(), metavar="N,...", help="prompts in one call, like 1,2,4,8 (default: one)"
    )
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
    if any(texts < 1 for texts in options.texts):
        raise OptionError("--texts names a number below 1; use 1 or more")
    if any(temperature < 0 for temperature in options.temperature):
        raise OptionError("a temperature is below 0; use 0 or more")
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out} is a file; name a folder")
    return options


def _encoded(pair: Pair, source: str, limit: int, new_tokens: int) -> list[list[int]]:
    """The prompts' first turns as token ids, as far as they fit the target's context with ``new_tokens`` more."""
    tokenizer = load_tokenizer(pair.target.directory / "tokenizer.json", CheckpointError)
    config = json.loads((pair.target.directory / "config.json").read_text(encoding="utf-8"))
    room = int(config.get("max_position_embeddings", 2048)) - new_tokens
    texts = [tokenizer.encode(prompt.turns[0]).ids for prompt in load_prompts(source)]
    fitting = [ids for ids in texts if len(ids) <= room][:limit]
    if not fitting:
        raise OptionError(f"no prompt leaves room for {new_tokens} new tokens; lower --max-new-tokens")
    return fitting


if __name__ == "__main__":
    run_command(PROG, main)
