"""Keys, browsers, health, the description, and the end of a server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="msgspec is not installed: pip install -e '.[serve]'")

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from runtime.decoding.decoder import Decoder
from tests.runtime.serving.running import LONG_WAIT, RunningServer, events_of, held

COMPLETIONS = "/v1/completions"
GOOD = {"model": "target", "prompt": "the draft", "max_tokens": 12, "seed": 7}
OPEN = ["/", "/health", "/metrics", "/openapi.json"]
CLOSED = ["/v1/models", "/v1/models/target", "/v1/nothing", "/admin/policy"]


@pytest.fixture
def decoder(served: dict[str, Decoder]) -> Decoder:
    return served["target"]


async def page(request: Request) -> Response:
    return PlainTextResponse("a page")


def test_without_the_key_only_what_monitoring_reads_is_open(decoder: Decoder) -> None:
    routes = [Route(path, page) for path in ("/", "/metrics", "/admin/policy")]
    with RunningServer([decoder], keys=["one", "zwei-ß"], routes=routes) as server, server.client() as client:
        assert [client.get(path).status_code for path in OPEN] == [200] * 4
        for path in CLOSED:
            refused = client.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer two", "Bearer", "one", "Basic one", "Bearer one two", b"Bearer \xff"):
            assert client.get("/v1/models", headers={"Authorization": wrong}).status_code == 401
        for key in ("one", "zwei-ß"):
            header = f"bearer {key}".encode()
            assert client.get("/v1/models", headers={"Authorization": header}).status_code == 200


def test_routes_beside_the_usual_ones_are_served(decoder: Decoder) -> None:
    with RunningServer([decoder], routes=[Route("/", page)]) as server, server.client() as client:
        assert client.get("/").text == "a page"


def test_browsers_may_ask_from_the_origins_that_are_named(decoder: Decoder) -> None:
    asks = {"Origin": "https://mine.example", "Access-Control-Request-Method": "POST"}
    with RunningServer([decoder], origins=["https://mine.example"], keys=["k"]) as server, server.client() as client:
        allowed = client.options(COMPLETIONS, headers=asks)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://mine.example")
        assert client.options(COMPLETIONS, headers={**asks, "Origin": "https://other.example"}).status_code == 400
        refused = client.post(COMPLETIONS, headers={"Origin": "https://mine.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://mine.example")
    with RunningServer([decoder]) as server, server.client() as client:
        assert "access-control-allow-origin" not in client.get("/health", headers=asks).headers


def test_a_server_that_loads_answers_that_it_is_not_ready(decoder: Decoder) -> None:
    with RunningServer([decoder], load=False) as server, server.client() as client:
        assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "loading"})
        for response in (server.post(COMPLETIONS, GOOD), client.get("/v1/models"), client.get("/v1/models/target")):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")
            assert int(response.headers["retry-after"]) >= 1
        server.load()
        assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "ready"})
        assert server.post(COMPLETIONS, GOOD).status_code == 200


def test_stopping_lets_texts_end_and_takes_no_new_ones(decoder: Decoder) -> None:
    with RunningServer([decoder]) as server, ThreadPoolExecutor(2) as pool, server.client() as client:
        expected = server.post(COMPLETIONS, GOOD).json()["choices"]
        with held(decoder) as holding:
            whole = pool.submit(server.post, COMPLETIONS, GOOD)
            streamed = pool.submit(server.post, COMPLETIONS, {**GOOD, "stream": True})
            server.recorder.wait_for("queued", 3)
            holding.wait()
            server.stop()
            while client.get("/health").status_code == 200:
                pass
            assert client.get("/health").json() == {"status": "draining"}
            refused = server.post(COMPLETIONS, GOOD)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert whole.result(LONG_WAIT).json()["choices"] == expected
        assert events_of(streamed.result(LONG_WAIT).text)[-1] == "[DONE]"
        server.thread.join(LONG_WAIT)
        assert not server.thread.is_alive()
        assert not server.server.cut


@pytest.mark.parametrize("twice", [True, False], ids=["at the second signal", "after the drain time"])
def test_texts_that_do_not_end_in_time_are_cut_off_and_told(decoder: Decoder, twice: bool) -> None:
    with RunningServer([decoder], drain_seconds=LONG_WAIT if twice else 0.05) as server, ThreadPoolExecutor(2) as pool:
        with held(decoder) as holding:
            streamed = pool.submit(server.post, COMPLETIONS, {**GOOD, "stream": True, "max_tokens": 200})
            holding.wait()
            server.recorder.wait_for("started", 1)
            server.stop()
            if twice:
                server.stop()
            generation = next(what for kind, what in server.recorder.events if kind == "started")
            while not generation.request.cancelled:
                assert server.thread.is_alive()
        last = events_of(streamed.result(LONG_WAIT).text)[-1]
        assert last["error"]["code"] == "shutting_down"
        server.thread.join(LONG_WAIT)
        assert server.server.cut


def test_the_description_is_of_what_is_served(server: Any) -> None:
    with server.client() as client:
        description = client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    body = description["components"]["schemas"]["CompletionBody"]
    assert body["additionalProperties"] is False
    assert body["properties"]["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 100}
    assert {"seed", "exact"} <= set(description["components"]["schemas"]["CompletionChoice"]["properties"])
    assert set(description["paths"]["/v1/completions"]["post"]["responses"]) >= {"200", "400", "401", "413", "429"}
    assert "security" not in description


def test_what_is_answered_fits_the_description(server: Any) -> None:
    import jsonschema_rs

    with server.client() as client:
        description = client.get("/openapi.json").json()

    def check(name: str, answer: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
        jsonschema_rs.validator_for(schema).validate(answer)

    fields = {**GOOD, "logprobs": 1, "echo": True}
    check("CompletionBody", fields)
    check("Completion", server.post(COMPLETIONS, fields).json())
    stream = {**fields, "stream": True, "stream_options": {"include_usage": True}}
    for part in events_of(server.post(COMPLETIONS, stream).text)[:-1]:
        check("Completion", part)
    chat = {"model": "chat", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "logprobs": True}
    check("ChatBody", chat)
    check("ChatCompletion", server.post("/v1/chat/completions", chat).json())
    for part in events_of(server.post("/v1/chat/completions", {**chat, "stream": True}).text)[:-1]:
        check("ChatChunk", part)
    check("ErrorBody", server.post(COMPLETIONS, json.dumps({"n": 0}).encode()).json())
