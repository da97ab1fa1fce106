"""The ingress in front of two whole servers, one of which may be lost at any time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from runtime.scaling.calls import Call, Head, Part, ReplicaLostError, answer
from runtime.scaling.ingress import Ingress
from runtime.serve import Serving, arguments_of
from runtime.serving.errors import ApiError
from runtime.serving.state import Limits

PROMPT = "the draft proposes"


class Replicas:
    """Two servers; ``lost_after`` says after how many parts of its next answer a server ends for good, ``full_after``
    after how many calls there is no room for more.
    """

    def __init__(self, servings: list[Serving]) -> None:
        self.servings = servings
        self.lost_after: int | None = None
        self.full_after: int | None = None
        self.alive = [0, 1]
        self.calls: list[tuple[str, int, Call]] = []

    async def call(self, session: str, call: Call) -> AsyncGenerator[Part, None]:
        if self.full_after is not None and len(self.calls) >= self.full_after:
            raise ApiError(429, "too many requests wait", code="queue_full")
        chosen = self.alive[sum(session.partition("#")[0].encode()) % len(self.alive)] if self.alive else -1
        self.calls.append((session, chosen, call))
        if chosen < 0:
            raise ReplicaLostError
        left, self.lost_after = self.lost_after, None
        async with aclosing(answer(self.servings[chosen].app, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                if left == 0:
                    self.alive.remove(chosen)
                    raise ReplicaLostError
                left = None if left is None else left - 1
                yield part


@pytest.fixture(scope="module")
def servings(draft_bundle: Path, target_bundle: Path) -> Iterator[list[Serving]]:
    arguments = ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--access-log", "none"]
    made = [Serving(arguments_of(arguments)) for _ in range(2)]
    for serving in made:
        serving.begin(serving.load(), "memory")
    yield made
    for serving in made:
        serving.close()


@pytest.fixture
def replicas(servings: list[Serving]) -> Replicas:
    return Replicas(servings)


async def settle(servings: list[Serving]) -> None:
    """Until no text is left. The servers outlive each test's loop, so that none of their events can be waited for."""
    while not all(serving.state.texts.idle.is_set() for serving in servings):
        await asyncio.sleep(0)


def ask(replicas: Replicas, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Run ``work`` with a client of the ingress."""
    ingress = Ingress(replicas.call)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await ingress.answer(Request(scope, receive))
        await response(scope, receive, send)

    async def run() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ingress") as client:
            result = await work(client)
        await settle(replicas.servings)
        return result

    return asyncio.run(run())


def complete(replicas: Replicas, **given: Any) -> httpx.Response:
    body = {"prompt": PROMPT, "max_tokens": 32, "ignore_eos": True, **given}
    response: httpx.Response = ask(replicas, lambda client: client.post("/v1/completions", json=body))
    return response


def texts_of(response: httpx.Response) -> dict[int, str]:
    texts: dict[int, str] = {}
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@pytest.mark.parametrize("lost_after", [0, 1, 2, 5, 9])
def test_a_stream_goes_on_from_another_replica_with_the_same_text(replicas: Replicas, lost_after: int) -> None:
    given = {"stream": True, "seed": 7, "temperature": 1.0, "n": 2, "logprobs": 1}
    whole = texts_of(complete(replicas, **given))
    replicas.lost_after = lost_after
    response = complete(replicas, **given)
    assert texts_of(response) == whole
    assert len(replicas.alive) == 1
    assert response.text.endswith("data: [DONE]\n\n")


def test_the_seed_is_drawn_before_the_replicas(replicas: Replicas) -> None:
    replicas.lost_after = 6
    response = complete(replicas, stream=True, temperature=1.0)
    seeds = [json.loads(call.body)["seed"] for _, _, call in replicas.calls]
    assert len(seeds) == 2
    assert seeds[0] == seeds[1]
    replicas.lost_after = None
    assert texts_of(complete(replicas, stream=True, temperature=1.0, seed=seeds[0])) == texts_of(response)


def test_a_request_without_a_stream_is_asked_again(replicas: Replicas) -> None:
    whole = complete(replicas, seed=7).json()["choices"][0]["text"]
    replicas.lost_after = 1
    assert complete(replicas, seed=7).json()["choices"][0]["text"] == whole
    assert len(replicas.alive) == 1


def test_sessions_stay_together(replicas: Replicas) -> None:
    for user in ("ann", "bob"):
        for prompt in ("a", "b", "c"):
            complete(replicas, prompt=prompt, user=user, max_tokens=1)
    chosen = [(session, replica) for session, replica, _ in replicas.calls]
    assert len(set(chosen)) == 2
    complete(replicas, max_tokens=1)
    complete(replicas, max_tokens=1)
    assert replicas.calls[-1][0] == replicas.calls[-2][0]


def test_without_a_replica_the_answer_is_503(replicas: Replicas) -> None:
    replicas.alive = []
    response = complete(replicas)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "replica_lost"


def test_without_room_the_answer_is_429_and_a_stream_ends_with_it(replicas: Replicas) -> None:
    replicas.full_after = 0
    assert complete(replicas).status_code == complete(replicas, stream=True).status_code == 429
    replicas.full_after, replicas.lost_after = 1, 3
    last = complete(replicas, stream=True).text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "queue_full"


def test_a_body_that_is_too_large_reaches_no_replica(replicas: Replicas) -> None:
    response = complete(replicas, prompt="a" * (Limits().max_body + 1))
    assert response.status_code == 413
    assert replicas.calls == []


def test_a_call_that_changes_a_server_is_not_repeated(replicas: Replicas) -> None:
    replicas.lost_after = 0
    assert ask(replicas, lambda client: client.put("/admin/policy", json={})).status_code == 503
    assert len(replicas.calls) == 1


def test_errors_and_other_pages_are_the_replicas(replicas: Replicas) -> None:
    assert complete(replicas, temperature=-1).status_code == 400
    assert complete(replicas, stream=True, temperature=-1).status_code == 400
    assert ask(replicas, lambda client: client.get("/v1/models")).json()["data"][0]["id"] == "target"
    assert ask(replicas, lambda client: client.post("/v1/completions", content=b"{")).status_code == 400
    assert "s2d_" in ask(replicas, lambda client: client.get("/metrics")).text


def test_an_answer_that_nobody_waits_for_is_cancelled(servings: list[Serving]) -> None:
    body = json.dumps({"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
    call = Call("POST", "/v1/completions", b"", [(b"content-type", b"application/json")], body)

    async def leave() -> None:
        async with aclosing(answer(servings[0].app, call)) as parts:  # type: ignore[type-var]
            async for part in parts:
                if not isinstance(part, Head):
                    break
        await settle(servings)

    asyncio.run(asyncio.wait_for(leave(), 20))
