"""Two replicas on a Ray cluster of this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.serving.client import Reply, post
from tests.benchmarks.serving.cluster import Cluster, Replica, cluster

LONG = {"prompt": "the draft proposes", "max_tokens": 240, "ignore_eos": True, "temperature": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def running(draft_bundle: Path, target_bundle: Path) -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; install the extra [ray]")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two replicas need two cores")
    limits = ["--max-queued", "2", "--", "--threads", "1", "--sequences", "2", "--max-queue", "2"]
    with cluster([str(target_bundle)], str(draft_bundle), 2, limits) as started:
        yield started
    assert started.process.returncode == 0


def ask(cluster: Cluster, *bodies: dict[str, Any], leave_after: int | None = None) -> list[Reply]:
    async def run() -> list[Reply]:
        sent = [json.dumps(LONG | body).encode() for body in bodies]
        calls = [post(cluster.host_and_port, "/v1/completions", body, leave_after) for body in sent]
        return list(await asyncio.gather(*calls))

    return asyncio.run(run())


def used(before: dict[str, Replica], after: dict[str, Replica]) -> set[str]:
    return {name for name, replica in after.items() if name not in before or replica.tokens > before[name].tokens}


def test_a_session_stays_with_one_replica_and_several_use_both(running: Cluster) -> None:
    before, users = running.whole(2), iter(range(200))
    while len(used(before, running.replicas())) < 2:
        ask(running, {"user": f"user {next(users)}", "max_tokens": 2})
    before = running.replicas()
    for _ in range(4):
        ask(running, {"user": "ann", "max_tokens": 2})
    assert len(used(before, running.replicas())) == 1


def test_a_stream_goes_on_with_the_same_text_where_its_replica_is_killed(running: Cluster) -> None:
    before = running.whole(2)
    asked = {"user": "ann", "stream": True, "n": 4}
    (whole,) = ask(running, asked)
    (first,) = used(before, running.replicas())

    async def kill() -> Reply:
        body = json.dumps(LONG | asked).encode()
        streaming = asyncio.ensure_future(post(running.host_and_port, "/v1/completions", body))
        told = before[first].tokens + 960
        while (await asyncio.to_thread(running.replicas))[first].tokens == told:
            continue
        before[first].kill()
        return await streaming

    again = asyncio.run(kill())
    assert texts_of(again) == texts_of(whole)
    assert first not in running.replicas()
    (other,) = used(before, {name: each for name, each in running.replicas().items() if name in before})
    assert other != first


def texts_of(reply: Reply) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in reply.events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def test_calls_beyond_all_queues_are_refused_and_the_others_answered(running: Cluster) -> None:
    running.whole(2)
    replies = ask(running, *({"user": str(number)} for number in range(40)))
    assert {reply.status for reply in replies} == {200, 429}
    assert len({reply.text for reply in replies if reply.status == 200}) == 1
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.json["error"]["code"] == "queue_full"


def test_a_client_that_leaves_ends_its_text(running: Cluster) -> None:
    before = sum(replica.cancelled for replica in running.whole(2).values())
    ask(running, {"stream": True, "n": 4}, leave_after=1)
    while sum(replica.cancelled for replica in running.replicas().values()) == before:
        continue
