"""Is every text the same, bit for bit, whoever else is served?

Texts are generated alone first, by the target without drafting. Then they are served again and again in random company:
a random number at a time, joining at random steps, with and without drafting, some cancelled on the way, under a random
limit of memory that makes texts start again, and beginning with rows of earlier texts. Every token and the score of
every chosen token must equal those of the text alone; of a cancelled text, those that it has. A combination is one text
in one step: its lane, rows and context beside those of the others.

  python -m tests.benchmarks.identity --target target-17m --draft draft --combinations 10000
  python -m tests.benchmarks.identity --target target-17m,target-6m --draft draft --out identity
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime import CacheMemory, Decoder, Options, Request, Sampling, Scheduler, SortedDraft, open_target
from runtime.decoding.leasing import bytes_of
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from tests.benchmarks.internals import generate, load_prompts, same_bits_so_far
from tests.benchmarks.tables import table_lines, write_report

PROG = "python -m tests.benchmarks.identity"
MOST_TEXTS = 8
PREFIX_BYTES = 2**28


@dataclass(slots=True)
class Counts:
    """What was served, and what differed."""

    combinations: int = 0
    texts: int = 0
    different: int = 0
    cancelled: int = 0
    restarted: int = 0
    restored_tokens: int = 0
    lanes: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Reference:
    """A text alone."""

    decoder: Decoder
    options: Options
    request: Request


def references(decoder: Decoder, rng: random.Random, texts: int, new: int) -> list[Reference]:
    """Random parts of the shipped prompts, some of which begin alike, at temperature 0 and 1."""
    prompts = [prompt.turns[0] for prompt in load_prompts("demo", texts)]
    longest = decoder.target.max_length - new
    made: list[Reference] = []
    for number in range(texts):
        ids = decoder.request(prompts[number % len(prompts)]).prompt
        if number % 3 == 2:  # begins as the text before
            ids = [*made[-1].request.prompt, *ids]
        ids = ids[: rng.randint(2, min(len(ids), longest))]
        sampling = Sampling(temperature=float(number % 2), seed=number)
        options = Options(max_new_tokens=rng.randint(2, new), sampling=sampling)
        alone = generate(decoder, ids, replace(options, draft=False))
        made.append(Reference(decoder, options, alone))
        show(f"{decoder.target.name}: {number + 1}/{texts} texts alone")
    return made


def serve_once(known: Sequence[Reference], rng: random.Random, counts: Counts, memory: CacheMemory) -> None:
    """Serve a random choice of the texts in random company; ``memory`` keeps the prefixes of earlier ones."""
    chosen = rng.sample(known, rng.randint(1, min(len(known), 3 * MOST_TEXTS)))
    served = [
        (each, each.decoder.request(each.request.prompt, replace(each.options, draft=rng.random() < 0.7)))
        for each in chosen
    ]
    average = sum(bytes_of(request) for _, request in served) / len(served)
    memory = memory if rng.random() < 0.6 else CacheMemory()
    memory.limit = int(average * rng.uniform(1.5, MOST_TEXTS)) if rng.random() < 0.4 else None
    restored = memory.restored_tokens
    scheduler, waiting = Scheduler(rng.randint(1, MOST_TEXTS), memory), list(served)
    cancelling = {id(request): rng.randint(1, 40) for _, request in served if rng.random() < 0.15}
    begun: set[int] = set()
    number = 0
    while scheduler.busy or waiting:
        while waiting and (not scheduler.busy or rng.random() < 0.4):
            scheduler.add(waiting.pop()[1])
        for _, request in served:
            if cancelling.get(id(request)) == number:
                request.cancel()
        running = {id(request) for request in scheduler.running}
        scheduler.step()
        counts.restarted += sum(id(request) in begun - running for request in scheduler.running)
        begun |= {id(request) for request in scheduler.running}
        counts.combinations += len(scheduler.running)
        counts.lanes.add(len(scheduler.running))
        number += 1
    for each, request in served:
        if request.error is not None:
            raise request.error
        counts.texts += 1
        counts.cancelled += request.finish_reason == "cancelled"
        counts.different += not same_bits_so_far(request, each.request)
    counts.restored_tokens += memory.restored_tokens - restored


def show(line: str) -> None:
    """One line of progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line:79}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> None:
    """Serve until so many combinations were compared; the targets' texts are served together."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundles, separated by commas")
    parser.add_argument("--draft", default="draft", help="draft bundle (%(default)s)")
    parser.add_argument("--combinations", type=positive_int, default=10_000, help="how many at least (%(default)s)")
    parser.add_argument("--texts", type=positive_int, default=24, help="texts of each target (%(default)s)")
    parser.add_argument("--new", type=positive_int, default=48, help="most new tokens of a text (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random company (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report there")
    arguments = parser.parse_args(argv)
    rng, draft = random.Random(arguments.seed), SortedDraft.open(find_bundle(arguments.draft))
    decoders = [Decoder(open_target(name), draft) for name in arguments.target.split(",")]
    known: list[Reference] = []
    for decoder in decoders:
        decoder.prepare(sequences=MOST_TEXTS)
        known += references(decoder, rng, arguments.texts, arguments.new)
    counts, memory, began = Counts(), CacheMemory(prefix_bytes=PREFIX_BYTES), time.perf_counter()
    while counts.combinations < arguments.combinations:
        serve_once(known, rng, counts, memory)
        show(f"{counts.combinations}/{arguments.combinations} combinations, {counts.different} texts differ")
    row = {
        "target": arguments.target,
        "draft": arguments.draft,
        "combinations": counts.combinations,
        "texts": counts.texts,
        "identical": counts.texts - counts.different,
        "cancelled": counts.cancelled,
        "restarted": counts.restarted,
        "tokens of prefixes restored": counts.restored_tokens,
        "texts at a time": f"1-{max(counts.lanes)}",
        "seconds": time.perf_counter() - began,
    }
    lines = table_lines("Identity in random company", [row])
    print("\n".join(lines))
    if arguments.out is not None:
        write_report(arguments.out, lines, [row])


if __name__ == "__main__":
    run_command(PROG, main)
