"""What is wrong is refused by name, in OpenAI's shape, and harms nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.serving.state import Limits

pytest.importorskip("msgspec", reason="msgspec is not installed: pip install -e '.[serve]'")

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = {"model": "target", "prompt": "the draft", "max_tokens": 4, "seed": 7}


def body(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def raw(field: bytes) -> bytes:
    """A body with a field that Python would not write."""
    return body()[:-1] + b", " + field + b"}"


WRONG: dict[str, tuple[bytes, str | None]] = {
    "no JSON": (b"{", None),
    "nothing": (b"", None),
    "a list": (b"[]", None),
    "null": (b"null", None),
    "two values": (body() + b"{}", None),
    "invalid UTF-8": (raw(b'"user": "\xff\xfe"'), None),
    "a lone surrogate": (raw(b'"user": "\\ud800"'), None),
    "NaN": (raw(b'"temperature": NaN'), None),
    "infinity": (raw(b'"temperature": 1e999'), "temperature"),
    "deep JSON": (raw(b'"user": ' + b"[" * 100_000), "user"),
    "deep JSON in an unknown field": (raw(b'"depths": ' + b"[" * 100_000), "depths"),
    "no prompt": (b'{"model": "target"}', "prompt"),
    "an empty prompt list": (body(prompt=[]), "prompt"),
    "an empty list of ids": (body(prompt=[[]]), "prompt[0]"),
    "mixed prompts": (body(prompt=["a", 1]), "prompt"),
    "a negative id": (body(prompt=[1, -1]), "prompt[1]"),
    "a huge id": (body(prompt=[2**70]), "prompt[0]"),
    "an id that is no number": (body(prompt=[[1, "a"]]), "prompt[0][1]"),
    "a prompt of another type": (body(prompt={}), "prompt"),
    "a negative temperature": (body(temperature=-1), "temperature"),
    "a temperature in words": (body(temperature="warm"), "temperature"),
    "top_p 0": (body(top_p=0), "top_p"),
    "min_p 1": (body(min_p=1), "min_p"),
    "a penalty of 3": (body(frequency_penalty=3), "frequency_penalty"),
    "no tokens": (body(max_tokens=0), "max_tokens"),
    "no choices": (body(n=0), "n"),
    "half a choice": (body(n=1.5), "n"),
    "a negative seed": (body(seed=-1), "seed"),
    "5,000 stop strings": (body(stop=["x"] * 5000), "stop"),
    "an empty stop string": (body(stop=""), "stop"),
    "a long stop string": (body(stop="x" * 1000), "stop"),
    "a bias of 101": (body(logit_bias={"1": 101}), "logit_bias[...]"),
    "a bias of a word": (body(logit_bias={"the": 1}), "logit_bias"),
    "21 logprobs": (body(logprobs=21), "logprobs"),
    "an unknown option of streams": (body(stream_options={"usage": True}), "stream_options.usage"),
    "an unknown policy": (body(speculative={"policy": "bold"}), "speculative.policy"),
    "a tree of one node": (body(speculative={"tree": {"nodes": 1}}), "speculative.tree.nodes"),
    "a suffix": (body(suffix="x"), "suffix"),
    "best_of": (body(best_of=2), "best_of"),
    "tools": (body(tools=[]), "tools"),
    "a format of another kind": (body(response_format={"type": "xml"}), "response_format.type"),
    "a format without its schema": (body(response_format={"type": "json_schema"}), "response_format.json_schema"),
    "two forms": (body(structured_outputs={"regex": "a", "choice": ["a"]}), "structured_outputs"),
}
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "an id outside the vocabulary": ({"prompt": [1, 300]}, "outside the vocabulary of 300"),
    "a prompt beyond the context": ({"prompt": [5] * 256}, "holds 256 in all"),
    "a bias outside the vocabulary": ({"logit_bias": {"300": 1}}, "outside the vocabulary"),
    "a stop token outside the vocabulary": ({"stop_token_ids": [300]}, "outside the vocabulary"),
    "too few thresholds": ({"speculative": {"thresholds": [0.5]}}, "1 thresholds for 3 exits"),
    "thresholds of the adaptive policy": (
        {"speculative": {"policy": "adaptive", "thresholds": [0, 0, 0]}},
        "belong to the policy fixed",
    ),
    "a tree that no call holds": ({"speculative": {"tree": {"depth": 200, "top_k": 16, "nodes": 1000}}}, "at most"),
    "more tokens at least than at most": ({"min_tokens": 9}, "min-tokens 9"),
    "a schema of nothing": ({"structured_outputs": {"json": False}}, "Unsatisfiable schema"),
    "a regular expression that is none": ({"structured_outputs": {"regex": "("}}, "regular expression cannot be used"),
    "too many texts": ({"n": 128}, "takes 68 at a time"),
    "a seed above 64 bits": ({"seed": 2**64}, "seed"),
}


def error_of(response: Any) -> Any:
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


@pytest.mark.parametrize(("data", "param"), WRONG.values(), ids=WRONG)
def test_a_wrong_body_names_its_field(server: Any, data: bytes, param: str | None) -> None:
    response = server.post(COMPLETIONS, data)
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert len(error["message"]) < 500
    assert server.post(COMPLETIONS, GOOD).status_code == 200


@pytest.mark.parametrize(("fields", "reason"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_this_target_says_why(server: Any, fields: dict[str, Any], reason: str) -> None:
    response = server.post(COMPLETIONS, {**GOOD, **fields})
    assert response.status_code == 400
    assert reason in error_of(response)["message"]


def test_a_model_that_is_not_served_is_not_found(server: Any) -> None:
    response = server.post(COMPLETIONS, {**GOOD, "model": "gone"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert "target, other, chat" in error_of(response)["message"]


def test_a_model_must_be_named_where_there_are_several(server: Any) -> None:
    response = server.post(COMPLETIONS, {"prompt": "a"})
    assert (response.status_code, error_of(response)["param"]) == (400, "model")


@pytest.mark.parametrize(("path", "method"), [("/v1/nothing", "GET"), ("/v2", "POST"), ("/v1/completions/", "POST")])
def test_an_unknown_path_is_an_error_in_the_same_shape(server: Any, path: str, method: str) -> None:
    with server.client() as client:
        response = client.request(method, path)
    assert (response.status_code, error_of(response)["message"]) == (404, "not found")


def test_a_wrong_method_says_which_are_allowed(server: Any) -> None:
    with server.client() as client:
        response = client.get(COMPLETIONS)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert error_of(response)["message"] == "method not allowed"


def test_a_chat_names_the_message_at_fault(server: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    fields = {"model": "chat", "messages": [{"role": "user", "content": [image]}]}
    response = server.post(CHAT, fields)
    assert response.status_code == 400
    assert error_of(response)["param"].startswith("messages[0].content[0]")
    assert error_of(server.post(CHAT, {"model": "chat", "messages": []}))["param"] == "messages"
    assert error_of(server.post(CHAT, {**fields, "messages": [{"role": "king", "content": ""}]}))["param"] == (
        "messages[0].role"
    )


def test_a_chat_cannot_ask_for_two_limits_at_once(server: Any) -> None:
    messages = [{"role": "user", "content": "a"}]
    response = server.post(CHAT, {"model": "chat", "messages": messages, "max_tokens": 1, "max_completion_tokens": 2})
    assert error_of(response)["param"] == "max_tokens"
    response = server.post(CHAT, {"model": "chat", "messages": messages, "top_logprobs": 1})
    assert error_of(response)["param"] == "top_logprobs"


def test_a_text_that_cannot_fit_is_refused(server: Any) -> None:
    response = server.post(COMPLETIONS, {**GOOD, "prompt": "the " * 500_000})
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("size", [5 * 2**20, 10 * 2**20])
def test_a_body_beyond_the_limit_is_too_large(server: Any, size: int) -> None:
    response = server.post(COMPLETIONS, {**GOOD, "prompt": "x" * size})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_a_client_that_closes_behind_a_large_body_still_sees_why_it_is_refused(server: Any) -> None:
    from tests.runtime.serving.running import read_all

    with server.send(COMPLETIONS, b"x" * (20 * 2**20), "Connection: close\r\n") as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 413")


def test_a_body_that_is_far_too_large_is_not_read(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_of_unknown_length_is_counted(server: Any) -> None:
    def parts() -> Any:
        yield from [b"x" * 2**20] * 6

    with server.client() as client:
        response = client.post(COMPLETIONS, content=parts())
    assert response.status_code == 413


def test_a_body_that_comes_too_slowly_is_given_up(served: dict[str, Decoder]) -> None:
    from tests.runtime.serving.running import RunningServer

    with RunningServer([served["target"]], limits=Limits(body_seconds=0.5)) as server, server.connect() as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert server.post(COMPLETIONS, GOOD).status_code == 200


@pytest.mark.parametrize("first", [True, False], ids=["first request", "second request"])
def test_a_head_that_comes_too_slowly_is_given_up(served: dict[str, Decoder], first: bool) -> None:
    from tests.runtime.serving.running import RunningServer

    limits = Limits(body_seconds=0.5)
    with RunningServer([served["target"]], limits=limits) as server, server.connect() as connection:
        if not first:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
            answer = b""
            while not answer.endswith(b'"ready"}'):
                answer += connection.recv(4096)
        connection.sendall(b"POST /v1/compl")
        assert connection.recv(4096) == b""
        assert server.post(COMPLETIONS, GOOD).status_code == 200


def test_what_is_no_http_is_refused(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_refusals_are_observed_with_their_target_and_status(server: Any) -> None:
    server.post(COMPLETIONS, {**GOOD, "model": "gone"})
    server.post(COMPLETIONS, {**GOOD, "prompt": [300]})
    assert [what for kind, what in server.recorder.events if kind == "refused"][-2:] == [(None, 404), ("target", 400)]
