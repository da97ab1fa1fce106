"""Under load and faults: the queue, clients that leave, engines that break, time that runs out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="msgspec is not installed: pip install -e '.[serve]'")

from runtime.decoding.decoder import Decoder
from runtime.serving.generation import Generation
from runtime.serving.observer import Observer
from runtime.serving.state import Limits
from s2d_trt.errors import S2DError
from tests.runtime.decoding.served import Leases
from tests.runtime.serving.running import LONG_WAIT, RunningServer, events_of, held, read_all

COMPLETIONS = "/v1/completions"
GOOD = {"model": "target", "prompt": "the draft", "max_tokens": 12, "seed": 7}


@pytest.fixture
def decoder(served: dict[str, Decoder]) -> Decoder:
    return served["target"]


def text_of(server: RunningServer, **fields: Any) -> str:
    response = server.post(COMPLETIONS, {**GOOD, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def until_cancelled(server: RunningServer, generation: Generation) -> None:
    """Let the event loop turn until it has seen that the client left."""
    with server.client() as client:
        while not generation.request.cancelled:
            client.get("/health")


def test_a_full_queue_is_429_and_says_when_to_ask_again(decoder: Decoder) -> None:
    with RunningServer([decoder], sequences=1, max_queue=1) as server, ThreadPoolExecutor(2) as pool:
        with held(decoder) as holding:
            answers = [pool.submit(text_of, server)]
            holding.wait()
            answers.append(pool.submit(text_of, server))
            server.recorder.wait_for("queued", 2)
            refused = server.post(COMPLETIONS, GOOD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert answers[0].result(LONG_WAIT) == answers[1].result(LONG_WAIT) == text_of(server)


def test_requests_beyond_the_limit_are_429_before_their_bodies_are_read(decoder: Decoder) -> None:
    limits = Limits(max_concurrent=1)
    with (
        RunningServer([decoder], limits=limits) as server,
        held(decoder) as holding,
        server.send(COMPLETIONS, GOOD),
        server.client() as client,
    ):
        holding.wait()
        refused = server.post(COMPLETIONS, GOOD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        assert client.get("/health").status_code == 200


def test_a_text_of_several_choices_takes_as_much_room(decoder: Decoder) -> None:
    with RunningServer([decoder], sequences=1, max_queue=2) as server:
        assert server.post(COMPLETIONS, {**GOOD, "n": 3}).status_code == 200
        assert server.post(COMPLETIONS, {**GOOD, "n": 4}).json()["error"]["code"] == "too_many_texts"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_text_within_a_step(decoder: Decoder, stream: bool) -> None:
    with RunningServer([decoder]) as server:
        with held(decoder) as holding:
            connection = server.send(COMPLETIONS, {**GOOD, "max_tokens": 200, "stream": stream, "ignore_eos": True})
            holding.wait()
            server.recorder.wait_for("started", 1)
            connection.close()
            (generation,) = [what for kind, what in server.recorder.events if kind == "started"]
            until_cancelled(server, generation)
        server.recorder.wait_for("finished", 1)
        assert generation.request.finish_reason == "cancelled"
        assert generation.request.stats.steps == 0
        assert len(generation.request.tokens) <= 1
        assert text_of(server)


def test_a_client_that_leaves_while_its_text_waits_never_runs_it(decoder: Decoder) -> None:
    with RunningServer([decoder], sequences=1) as server:
        with server.send(COMPLETIONS, GOOD):
            with held(decoder) as holding:
                holding.wait()
                server.send(COMPLETIONS, GOOD).close()
                server.recorder.wait_for("queued", 2)
                second = [what for kind, what in server.recorder.events if kind == "queued"][1]
                until_cancelled(server, second)
            server.recorder.wait_for("finished", 2)
        reasons = {generation.request.finish_reason for generation in server.recorder.finished_texts}
        assert reasons == {"length", "cancelled"}
        assert server.recorder.count("started") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n",
        b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{"mod',
    ],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_a_client_that_leaves_before_its_request_is_whole_leaves_nothing(decoder: Decoder, sent: bytes) -> None:
    with RunningServer([decoder]) as server:
        with server.connect() as connection:
            connection.sendall(sent)
        assert text_of(server)
    assert server.state.active == 0
    assert server.recorder.count("queued") == server.recorder.count("finished") == 1


def test_nothing_is_leaked_by_clients_that_come_and_go(served: dict[str, Decoder]) -> None:
    decoders = list(served.values())
    leases = Leases(decoders)
    with RunningServer(decoders, sequences=3) as server:
        before = leases.free
        for number in range(24):
            fields = {**GOOD, "model": list(served)[number % 3], "max_tokens": 40, "stream": number % 2 == 0}
            connection = server.send(COMPLETIONS, fields)
            if number % 4:
                connection.recv(10 if number % 4 == 1 else 400)
            connection.close()
        server.recorder.wait_for("finished", 24)
        leases.check([generation.request for generation in server.recorder.finished_texts], before)
        assert [server.recorder.count(kind) for kind in ("received", "queued", "finished")] == [24] * 3
        assert all(generation.ended is not None for generation in server.recorder.finished_texts)


def test_an_engine_that_fails_ends_its_own_texts_alone(
    served: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningServer(list(served.values())) as server, ThreadPoolExecutor(4) as pool:
        expected = text_of(server, model="other", max_tokens=40)
        with monkeypatch.context() as patch, held(served["other"]) as holding:
            good = pool.submit(text_of, server, model="other", max_tokens=40)
            holding.wait()

            def fail(parts: object) -> None:
                raise RuntimeError("a secret of the engine")

            patch.setattr(served["target"].target, "run", fail)
            whole = pool.submit(server.post, COMPLETIONS, GOOD)
            streamed = pool.submit(server.post, COMPLETIONS, {**GOOD, "stream": True})
            server.recorder.wait_for("queued", 4)
            holding.release()
            response = whole.result(LONG_WAIT)
            *_, last = events_of(streamed.result(LONG_WAIT).text)
        assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        assert last["error"] == response.json()["error"]
        assert "secret" not in response.text
        assert good.result(LONG_WAIT) == expected
        assert text_of(server)


def test_an_engine_that_says_what_to_do_is_quoted(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise S2DError("allow more memory")

    with RunningServer([decoder]) as server:
        with monkeypatch.context() as patch:
            patch.setattr(decoder.target, "lease", refuse)
            response = server.post(COMPLETIONS, GOOD)
        assert (response.status_code, response.json()["error"]["message"]) == (400, "allow more memory")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends(decoder: Decoder, stream: bool) -> None:
    with RunningServer([decoder], limits=Limits(request_seconds=0.2)) as server:
        with held(decoder):
            response = server.post(COMPLETIONS, {**GOOD, "stream": stream})
        error = events_of(response.text)[-1]["error"] if stream else response.json()["error"]
        assert (error["code"], error["type"]) == ("timeout", "server_error")
        assert response.status_code == (200 if stream else 503)
        server.recorder.wait_for("finished", 1)


def test_a_stream_without_parts_is_kept_alive(decoder: Decoder) -> None:
    with (
        RunningServer([decoder], limits=Limits(keep_alive_seconds=0.02)) as server,
        held(decoder) as holding,
        server.client() as client,
        client.stream("POST", COMPLETIONS, json={**GOOD, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        assert [next(lines), next(lines), next(lines)] == [": keep-alive", "", ": keep-alive"]
        holding.release()
        data = [line for line in lines if line.startswith("data")]
    assert data[-1] == "data: [DONE]"


def test_five_hundred_clients_at_once_are_all_answered(decoder: Decoder) -> None:
    with RunningServer([decoder], sequences=4, max_queue=16) as server:
        expected = text_of(server)
        connections = [server.connect() for _ in range(500)]
        data = json.dumps(GOOD).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        for connection in connections:
            connection.sendall(head.encode() + data)
        statuses = []
        for connection in connections:
            answer = read_all(connection)
            connection.close()
            statuses.append(int(answer.split()[1]))
            if statuses[-1] == 200:
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] == expected
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 20
        assert server.recorder.count("finished") == statuses.count(200) + 1


def test_a_slow_reader_delays_nobody(decoder: Decoder) -> None:
    with RunningServer([decoder]) as server:
        slow = server.send(COMPLETIONS, {**GOOD, "max_tokens": 200, "stream": True, "ignore_eos": True})
        assert slow.recv(1) == b"H"
        assert text_of(server)
        assert read_all_events(slow)[-1] == "[DONE]"


def read_all_events(connection: Any) -> list[Any]:
    data = b""
    while b"[DONE]" not in data:
        data += connection.recv(1)
    connection.close()
    return events_of(data.decode())


def test_an_observer_that_fails_harms_no_text(decoder: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Observer):
        def stepped(self, generation: Generation, step: object) -> None:
            raise ValueError("broken")

    with RunningServer([decoder], observers=[Broken()]) as server:
        assert text_of(server)
        assert server.recorder.count("finished") == 1
    assert "an observer failed" in caplog.text


def test_texts_are_followed_from_the_queue_to_their_end(decoder: Decoder) -> None:
    with RunningServer([decoder]) as server:
        server.post(COMPLETIONS, {**GOOD, "n": 2}, headers={"x-request-id": "mine"})
        server.recorder.wait_for("finished", 2)
        for choice, text in enumerate(sorted(server.recorder.finished_texts, key=lambda text: text.choice)):
            assert (text.target, text.request_id, text.choice) == ("target", "mine", choice)
            times = [text.arrived, text.queued, text.started, text.first_token, text.last_token, text.ended]
            assert times == sorted(times)
        kinds = [kind for kind, _ in server.recorder.events]
        assert kinds[:3] == ["received", "queued", "queued"]
        assert kinds.index("started") < kinds.index("stepped") < kinds.index("finished")


def test_the_log_has_a_line_for_each_request_and_no_text(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with RunningServer([decoder], log_path=str(path)) as server:
        answered = server.post(COMPLETIONS, {**GOOD, "user": "me"}, headers={"X-Request-Id": "one/two"})
        refused = server.post(COMPLETIONS, b"{", headers={"X-Request-Id": "evil\tid"})
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (answered.headers["x-request-id"], first["request_id"]) == ("one/two", "one/two")
    assert refused.headers["x-request-id"] == second["request_id"] != "evil\tid"
    assert (first["status"], first["model"], first["user"], first["completion_tokens"]) == (200, "target", "me", [12])
    assert (first["finish_reasons"], second["status"]) == (["length"], 400)
    assert 0 <= first["queue_seconds"] <= first["first_token_seconds"] <= first["seconds"]
    assert "the draft" not in path.read_text(encoding="utf-8")
