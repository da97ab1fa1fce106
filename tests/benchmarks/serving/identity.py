"""Is every served text the one that the target alone generates, under load, beside others, among cancellations?"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime import Decoder, Options, Sampling
from tests.benchmarks.internals import generate, load_prompts
from tests.benchmarks.serving.client import post
from tests.benchmarks.serving.process import ServerProcess, server
from tests.benchmarks.tables import Row

LOADS = (1, 8, 32)
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"enabled": False},
    {"policy": "fixed"},
    {"policy": "fixed", "tree": {"depth": 6}},
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A request, and the text that the target alone generates for it."""

    body: dict[str, Any]
    text: str


def references(targets: Sequence[str], texts: int, new: int, rng: random.Random) -> list[Reference]:
    """Random parts of the shipped prompts at temperature 0 and 1, generated without a server and without drafting."""
    made: list[Reference] = []
    for target in targets:
        decoder = Decoder.open(target, draft=None)
        prompts = [prompt.turns[0] for prompt in load_prompts("demo", texts)]
        for number in range(texts):
            ids = decoder.encode(prompts[number % len(prompts)])
            ids = ids[: rng.randint(2, min(len(ids), decoder.target.max_length - new))]
            tokens, warmth = rng.randint(2, new), float(number % 2)
            alone = generate(decoder, ids, Options(tokens, Sampling(warmth, seed=number), draft=False))
            asked = {"max_tokens": tokens, "temperature": warmth, "seed": number}
            made.append(Reference({"model": decoder.target.name, "prompt": ids, **asked}, alone.text))
            print(f"\r{decoder.target.name}: {number + 1}/{texts} texts alone ", end="", file=sys.stderr)
        print(file=sys.stderr)
    return made


def measure(
    targets: Sequence[str], draft: str, texts: int, new: int, rounds: int, seed: int, options: Sequence[str]
) -> list[Row]:
    """Serve all texts ``rounds`` times at each load, in random order, some of them cancelled."""
    rng = random.Random(seed)
    known = references(targets, texts, new, rng)
    with server(targets, draft, options) as running:
        return [asyncio.run(_load(running, known * rounds, load, rng)) for load in LOADS]


async def _load(running: ServerProcess, known: Sequence[Reference], load: int, rng: random.Random) -> Row:
    row: Row = {"clients": load, "texts": 0, "identical": 0, "cancelled": 0, "identical so far": 0, "refused": 0}
    waiting = rng.sample(known, len(known))

    async def client() -> None:
        while waiting:
            reference = waiting.pop()
            leave = rng.randint(1, 6) if rng.random() < 0.25 else None
            body = {**reference.body, "stream": leave is not None or rng.random() < 0.5}
            body["speculative"] = rng.choice(POLICIES)
            reply = await post(running.host_and_port, "/v1/completions", json.dumps(body).encode(), leave)
            if reply.status != 200:
                row["refused"] += 1
            elif reply.left:
                row["cancelled"] += 1
                row["identical so far"] += reference.text.startswith(reply.text)
            else:
                row["texts"] += 1
                row["identical"] += reply.text == reference.text

    await asyncio.gather(*(client() for _ in range(load)))
    return row
