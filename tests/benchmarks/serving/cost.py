"""What HTTP costs: the same texts by the bare decoder and through the server, in turns."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from runtime import Decoder, FixedThresholds, Options, Policy, Sampling, SortedDraft, open_target
from s2d_trt.bundle import find_bundle
from tests.benchmarks.internals import Placement, load_prompts
from tests.benchmarks.serving.process import ServerProcess, server
from tests.benchmarks.tables import Row

# Both sides must do the same work, so nothing that is learned may decide what is drafted.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"enabled": False}, {"draft": False}),
    "fixed": ({"policy": "fixed"}, {"policy": Policy(FixedThresholds())}),
}


def measure(target: str, draft: str, texts: int, new: int, repeats: int, threads: int | None) -> list[Row]:
    """One row for each way to draft."""
    placement = Placement(threads=threads)
    decoder = Decoder(open_target(target, placement), SortedDraft.open(find_bundle(draft), placement))
    prompts = [prompt.turns[0] for prompt in load_prompts("demo", texts)]
    longest = decoder.target.max_length - new
    ids = [decoder.encode(prompt)[: min(longest, 128)] for prompt in prompts]
    rows: list[Row] = []
    with server([target], draft, ["--threads", str(threads)] if threads else []) as running:
        for way, (asked, kept) in WAYS.items():
            bare: list[tuple[float, float]] = []
            served: list[tuple[float, float]] = []
            for repeat in range(repeats + 1):
                for number, prompt in enumerate(ids):
                    ours = _bare(decoder, prompt, Options(new, Sampling(seed=number), ignore_eos=True, **kept))
                    body = {"prompt": prompt, "max_tokens": new, "temperature": 0, "seed": number, "ignore_eos": True}
                    theirs = _served(running, {**body, "stream": True, "speculative": asked})
                    if repeat:  # the first round warms both sides up
                        bare.append(ours)
                        served.append(theirs)
                print(f"\r{way}: {repeat}/{repeats} rounds ", end="", file=sys.stderr)
            print(file=sys.stderr)
            rows.append(_row(way, bare, served))
    return rows


def _bare(decoder: Decoder, prompt: list[int], options: Options) -> tuple[float, float]:
    """Seconds to the first token, and in all."""
    began, first = time.perf_counter(), 0.0
    for _ in decoder.run(decoder.request(prompt, options)):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


def _served(running: ServerProcess, body: dict[str, Any]) -> tuple[float, float]:
    connection = http.client.HTTPConnection(*running.host_and_port)
    connection.connect()
    began, first = time.perf_counter(), 0.0
    connection.request("POST", "/v1/completions", json.dumps(body))
    answer = connection.getresponse()
    while line := answer.readline():
        if not first and line.startswith(b"data: "):
            first = time.perf_counter() - began
    connection.close()
    return first, time.perf_counter() - began


def _row(way: str, bare: Sequence[tuple[float, float]], served: Sequence[tuple[float, float]]) -> Row:
    pairs = list(zip(bare, served, strict=True))
    return {
        "drafting": way,
        "texts": len(pairs),
        "bare ms": 1e3 * statistics.median(total for _, total in bare),
        "served ms": 1e3 * statistics.median(total for _, total in served),
        "HTTP share %": 100 * statistics.median((theirs[1] - ours[1]) / theirs[1] for ours, theirs in pairs),
        "bare first token ms": 1e3 * statistics.median(first for first, _ in bare),
        "served first token ms": 1e3 * statistics.median(first for first, _ in served),
        "first token later by ms": 1e3 * statistics.median(theirs[0] - ours[0] for ours, theirs in pairs),
    }
