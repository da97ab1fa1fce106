"""Measure the C library: what calls cost, its speed beside Python's, and requests under random cancellations.

  python -m tests.benchmarks.embedding --draft draft --target target-17m
  python -m tests.benchmarks.embedding --draft draft --target target-17m --other target-6m --requests 10000

Speed: the same prompts by Python and by a C program in turn, each round one prompt, tokens a second of both and the
median of the ratios; with --alone without drafting, so that both do the same work. Storm: twelve threads create
requests that two others cancel at random times; memory must stay flat.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.embedding.build import build
from s2d_trt.cli import ArgumentParser, positive_int, run_command

PROG = "python -m tests.benchmarks.embedding"
SOURCES = Path(__file__).parent
PROMPTS = (
    "def read(self, size=-1):",
    "import os",
    "class Node:",
    "for name in names:",
    "    return self",
    "if not path:",
)


def main(argv: Sequence[str]) -> None:
    """Build the programs and run them."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--draft", required=True, help="draft bundle")
    parser.add_argument("--target", required=True, help="target bundle")
    parser.add_argument("--other", help="with --requests: a second target of the draft (default: the same one)")
    parser.add_argument("--tokens", type=positive_int, default=128, help="new tokens of a text (%(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=12, help="texts of each side (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="compare the speed without drafting")
    parser.add_argument("--requests", type=positive_int, help="run a storm of so many requests instead")
    parser.add_argument("--seed", type=int, default=1, help="of the storm (%(default)s)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder)
        build(dist)
        if arguments.requests:
            targets = [arguments.target, arguments.other or arguments.target]
            command = [program("storm", dist), arguments.draft, *targets, str(arguments.requests), str(arguments.seed)]
            subprocess.run(command, check=True)
        else:
            decoder = Decoder.open(arguments.target, arguments.draft)
            options = Options(max_new_tokens=arguments.tokens, ignore_eos=True, draft=not arguments.alone)
            command = [program("calls", dist), arguments.draft, arguments.target, str(int(options.draft))]
            measure(decoder, options, command, arguments.rounds)


def program(name: str, dist: Path) -> str:
    """A compiled program of this folder."""
    links = [f"-I{dist}", f"-L{dist}", f"-Wl,-rpath,{dist}", "-ls2d", "-pthread"]
    subprocess.run(["cc", "-std=c99", "-O2", str(SOURCES / f"{name}.c"), *links, "-o", str(dist / name)], check=True)
    return str(dist / name)


def measure(decoder: Decoder, options: Options, command: Sequence[str], rounds: int) -> None:
    """Costs of calls, then texts in turn."""
    decoder.prepare(options)
    tokens = options.max_new_tokens
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdin is not None
        assert host.stdout is not None
        for name, cost in json.loads(host.stdout.readline()).items():
            print(f"{name:28} {cost:9.3f} {'s' if name == 's2d_init' else 'us'}")
        ratios = []
        for prompt in islice(cycle(PROMPTS), rounds + 1):
            ours = seconds_of(decoder, prompt, options)
            host.stdin.write(f"{tokens} {prompt}\n")
            host.stdin.flush()
            theirs = json.loads(host.stdout.readline())
            assert theirs["tokens"] == tokens
            ratios.append(ours / theirs["seconds"])
            print(f"python {tokens / ours:8.2f} tokens/s   c {tokens / theirs['seconds']:8.2f} tokens/s")
        host.stdin.close()
    # The first round warms both sides up.
    print(f"c / python: median {statistics.median(ratios[1:]):.4f} of {rounds} rounds")


def seconds_of(decoder: Decoder, prompt: str, options: Options) -> float:
    """Seconds of one text by Python."""
    began = time.perf_counter()
    for _ in decoder.run(decoder.request(prompt, options)):
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    run_command(PROG, main)
