"""Two replicas of one thread beside one server of two threads; then one replica is killed while it streams."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

from s2d_trt.errors import S2DError
from tests.benchmarks.internals import load_prompts
from tests.benchmarks.serving.client import Reply, post
from tests.benchmarks.serving.cluster import Cluster, Replica, cluster
from tests.benchmarks.serving.process import server
from tests.benchmarks.tables import Row

Address = tuple[str, int]


def measure(targets: Sequence[str], draft: str, texts: int, new: int, repeats: int, sequences: int) -> list[Row]:
    """One row for each way to serve, and one for the loss of a replica; the first gives the texts to compare with."""
    bodies = _bodies(targets, texts, new)
    room = ["--sequences", str(sequences)]
    with server(targets, draft, ["--threads", "2", *room]) as one:
        asyncio.run(_ask(one.host_and_port, bodies, 2 * sequences))  # warms it up
        row, expected = _measured("one server, two threads", one.host_and_port, bodies * repeats, 2 * sequences)
    rows = [row]
    with cluster(targets, draft, 2, ["--", "--threads", "1", *room]) as two:
        asyncio.run(_ask(two.host_and_port, bodies, 2 * sequences))
        before = two.whole(2)
        row, replies = _measured("two replicas, one thread each", two.host_and_port, bodies * repeats, 2 * sequences)
        shares = [each.tokens - before[name].tokens for name, each in two.replicas().items()]
        rows.append({**row, "identical": _identical(replies, expected), "busiest replica %": _share(shares)})
        rows.append(_killed(two, bodies * repeats, 2 * sequences, replies))
    return rows


def _bodies(targets: Sequence[str], texts: int, new: int) -> list[bytes]:
    prompts = [prompt.turns[0] for prompt in load_prompts("demo", texts)]
    asked = {"max_tokens": new, "temperature": 1.0, "ignore_eos": True, "stream": True}
    return [
        json.dumps({"model": target, "prompt": prompts[at % len(prompts)], "seed": at, **asked}).encode()
        for at in range(texts)
        for target in (targets[at % len(targets)].rstrip("/").rpartition("/")[2].removesuffix(".engine"),)
    ]


async def _ask(address: Address, bodies: Sequence[bytes], clients: int) -> list[Reply]:
    room = asyncio.Semaphore(clients)

    async def one(body: bytes) -> Reply:
        async with room:
            reply = await post(address, "/v1/completions", body)
        if reply.status != 200 or "error" in reply.final:
            raise S2DError(f"a text failed: {reply.final}")
        return reply

    return list(await asyncio.gather(*map(one, bodies)))


def _measured(name: str, address: Address, bodies: Sequence[bytes], clients: int) -> tuple[Row, list[Reply]]:
    began = time.perf_counter()
    replies = asyncio.run(_ask(address, bodies, clients))
    seconds = time.perf_counter() - began
    tokens = sum(json.loads(body)["max_tokens"] for body in bodies)
    print(f"{name}: {len(bodies)} texts in {seconds:.1f} s", file=sys.stderr)
    return {"served by": name, "clients": clients, "texts": len(bodies), "tokens/s": tokens / seconds}, replies


def _killed(two: Cluster, bodies: Sequence[bytes], clients: int, expected: Sequence[Reply]) -> Row:
    """Kill the replica that generates more, while it does."""

    async def run() -> list[Reply]:
        asking = asyncio.ensure_future(_ask(two.host_and_port, bodies, clients))
        before = await asyncio.to_thread(two.whole, 2)
        while True:
            gained = {name: each.tokens - before[name].tokens for name, each in (await _replicas(two)).items()}
            busiest = max(gained, key=lambda name: gained[name])
            if sum(gained.values()) > len(bodies):
                before[busiest].kill()
                return await asking

    replies = asyncio.run(run())
    pauses = [later - earlier for reply in replies for earlier, later in pairwise(reply.times)]
    return {
        "served by": "two replicas, one is killed",
        "clients": clients,
        "texts": len(bodies),
        "identical": _identical(replies, expected),
        "longest pause s": max(pauses),
    }


async def _replicas(two: Cluster) -> dict[str, Replica]:
    return await asyncio.to_thread(two.replicas)


def _identical(replies: Sequence[Reply], expected: Sequence[Reply]) -> str:
    same = sum(ours.text == theirs.text for ours, theirs in zip(replies, expected, strict=True))
    return f"{same}/{len(replies)}"


def _share(shares: Sequence[float]) -> float:
    return 100 * max(shares) / sum(shares)
