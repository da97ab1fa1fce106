"""A soak: clients that finish, leave and err at random; then the server's counters against the clients' own count."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.serving.client import Reply, post
from tests.benchmarks.serving.process import ServerProcess, server
from tests.benchmarks.tables import Row

CLIENTS = 12
WARM_UP = 0.2
"""Share of the time after which memory must be flat, and the server may hold no more open files and threads."""
CLOSING_SECONDS = 10.0
"""For the last connections to close."""
REQUEST_SECONDS = 7200
"""Of the server, so that a machine which stops all processes for some minutes ends no text."""
BAD: tuple[bytes, ...] = (
    b"{",
    b"[" * 10_000,
    b'{"model": "%s", "prompt": [999999999]}',
    b'{"model": "%s", "prompt": "a", "temperature": -1}',
    b'{"model": "%s", "prompt": "a", "suffix": "b"}',
    b'{"model": "%s", "prompt": "a", "n": 100000}',
    b'{"model": "gone", "prompt": "a"}',
    b'{"model": "%s", "prompt": "' + b"a" * 5_000_000 + b'"}',
)
WORDS = ["def", "read", "self", "return", "import", "class", "value", "for", "in", "range", "if", "else", "None"]
COMPARED = {
    "s2d_prompt_tokens_total": "prompt_tokens",
    "s2d_generated_tokens_total": "completion_tokens",
    "s2d_drafts_total": "num_spec_steps",
    "s2d_draft_tokens_total": "num_draft_tokens",
    "s2d_accepted_tokens_total": "num_accepted_draft_tokens",
}


class Soak:
    """Clients of ``whole`` read all that they ask for, so that they know every token; those of ``broken`` leave."""

    def __init__(self, running: ServerProcess, whole: str, broken: str, new: int, room: int, seed: int) -> None:
        self._running, self.whole, self._broken, self._new = running, whole, broken, new
        self._longest = room // (1 + max(map(len, WORDS)))
        self._rng = random.Random(seed)
        self.sums: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> list[int]:
        """Ask until the time is over; the resident bytes all along. Time in which the machine stops this process does
        not count.
        """
        memory: list[int] = []
        every, spent = min(1.0, seconds / 20), 0.0

        async def watch() -> None:
            nonlocal spent
            while spent < seconds:
                memory.append(self._running.resident_bytes())
                line = f"\r{spent:.0f}/{seconds:.0f} s, {sum(self.statuses.values())} answers "
                print(line, end="", file=sys.stderr, flush=True)
                began = time.monotonic()
                await asyncio.sleep(every)
                spent += min(time.monotonic() - began, 2 * every)

        async def client() -> None:
            while spent < seconds:
                await self._rng.choice((self._ask, self._ask, self._leave, self._err))()

        await asyncio.gather(watch(), *(client() for _ in range(CLIENTS)))
        print(file=sys.stderr)
        return memory

    def differences(self, counters: dict[str, float]) -> dict[str, list[float]]:
        """The counters of whole texts that are not the clients' own count: theirs, and ours."""
        model = self.whole
        pairs = {
            name: [counters.get(f'{name}{{model="{model}"}}', -1), self.sums[ours]] for name, ours in COMPARED.items()
        }
        pairs["texts"] = [total(counters, "s2d_requests_total", model), self.sums["texts"]]
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def _body(self, model: str, **fields: Any) -> bytes:
        rng = self._rng
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, self._longest)))
        speculative = rng.choice(({}, {"enabled": False}, {"policy": "fixed"}))
        asked = {"max_tokens": rng.randint(1, self._new), "temperature": rng.choice((0, 1))}
        return json.dumps({"model": model, "prompt": prompt, "speculative": speculative, **asked, **fields}).encode()

    async def _post(self, body: bytes, **how: Any) -> Reply:
        reply = await post(self._running.host_and_port, "/v1/completions", body, **how)
        self.statuses[reply.status] += bool(reply.status)
        return reply

    async def _ask(self) -> None:
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        reply = await self._post(self._body(self.whole, **self._rng.choice(({}, stream))))
        if reply.status == 429:
            return
        if reply.status != 200 or "usage" not in reply.final:
            self.wrong.append(f"status {reply.status}: {reply.body[:200]!r}")
            return
        self.sums["texts"] += 1
        self._count(reply.final)

    def _count(self, answer: Any) -> None:
        drafts = answer["metrics"]["speculative_decoding"] or {}
        for name in COMPARED.values():
            self.sums[name] += answer["usage"].get(name, drafts.get(name, 0))

    async def _leave(self) -> None:
        stream = self._rng.random() < 0.7
        body = self._body(self._broken, stream=stream, ignore_eos=True, max_tokens=self._new)
        if self._rng.random() < 0.2:
            await self._post(body, send=self._rng.randint(0, len(body) - 1))
        else:
            await self._post(body, leave_after=self._rng.randint(0, 5) if stream else 0)

    async def _err(self) -> None:
        body = self._rng.choice(BAD)
        reply = await self._post(body % self._broken.encode() if b"%s" in body else body)
        if not 400 <= reply.status < 500:
            self.wrong.append(f"status {reply.status} for {body[:60]!r}")


def measure(
    targets: Sequence[str], draft: str, minutes: float, new: int, seed: int, options: Sequence[str]
) -> list[Row]:
    """One row: what came of it."""
    with server(targets, draft, [*options, "--request-timeout", str(REQUEST_SECONDS)]) as running:
        whole, broken, length = models_of(running)
        soak = Soak(running, whole, broken, new, length - new - 1, seed)
        asyncio.run(soak.run(minutes * 60 * WARM_UP))
        asyncio.run(settled(running))
        held = running.open_files(), running.threads()
        memory = asyncio.run(soak.run(minutes * 60 * (1 - WARM_UP)))
        counters = asyncio.run(settled(running))
        until = time.monotonic() + CLOSING_SECONDS
        while running.open_files() > held[0] and time.monotonic() < until:
            time.sleep(0.1)
        files, threads = running.open_files() - held[0], running.threads() - held[1]
    different = soak.differences(counters)
    tenth = max(1, len(memory) // 10)
    first, last = sum(memory[:tenth]) / tenth, sum(memory[-tenth:]) / tenth
    return [
        {
            "minutes": minutes,
            "answers": sum(soak.statuses.values()),
            "by status": [f"{status}: {count}" for status, count in sorted(soak.statuses.items()) if count],
            "whole texts": soak.sums["texts"],
            "tokens of whole texts": soak.sums["completion_tokens"],
            "cancelled": int(total(counters, "s2d_requests_total", broken, "cancelled")),
            "wrong answers": len(soak.wrong),
            "counters that differ": len(different),
            "texts left": int(
                total(counters, "s2d_requests_running", "") + total(counters, "s2d_requests_waiting", "")
            ),
            "files left": files,
            "threads left": threads,
            "resident MiB": last / 2**20,
            "drift %": 100 * (last - first) / first,
            **({"what differs": json.dumps(different)} if different else {}),
            **({"first wrong answer": soak.wrong[0]} if soak.wrong else {}),
        }
    ]


def models_of(running: ServerProcess) -> tuple[str, str, int]:
    """The first target and the last one, and how many tokens both hold."""
    with urllib.request.urlopen(f"{running.url}/v1/models") as answer:
        models = json.load(answer)["data"]
    return models[0]["id"], models[-1]["id"], min(model["max_model_len"] for model in models)


def open_texts(counters: dict[str, float]) -> int:
    """Texts that run or wait."""
    return int(total(counters, "s2d_requests_running", "") + total(counters, "s2d_requests_waiting", ""))


async def settled(running: ServerProcess) -> dict[str, float]:
    """The counters once the texts of clients that left have ended."""
    while True:
        counters = await asyncio.to_thread(running.counters)
        if not open_texts(counters):
            return counters
        await asyncio.sleep(0.1)


def total(counters: dict[str, float], name: str, model: str, reason: str = "") -> float:
    """The sum of a counter over its labels, for one model or all, for one finish reason or all."""
    wanted = [f'model="{model}"'] * bool(model) + [f'finish_reason="{reason}"'] * bool(reason)
    return sum(
        value for key, value in counters.items() if key.startswith(f"{name}{{") and all(part in key for part in wanted)
    )
