"""A stream that begins anew sends only what is new."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.scaling.resuming import DifferentTextError, Events

TEXT = "one two three four"
CUTS = [(4, 8, 18), (18,), (1, 2, 3, 18), (6, 6, 18)]


def completion(text: str, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"id": f"cmpl-{len(text)}", "created": len(text), "choices": [choice]}).encode()


def stream(cuts: tuple[int, ...], index: int = 0) -> list[bytes]:
    starts = (0, *cuts[:-1])
    parts = [completion(TEXT[start:stop], index) for start, stop in zip(starts, cuts, strict=True)]
    return [*parts, completion("", index, "length")]


def answers(sent: list[bytes | None]) -> list[dict[str, Any]]:
    return [json.loads(event[len(b"data: ") :]) for event in sent if event is not None and event != b"data: [DONE]"]


def text_of(sent: list[bytes | None], index: int = 0) -> str:
    choices = [choice for answer in answers(sent) for choice in answer["choices"]]
    return "".join(choice["text"] for choice in choices if choice["index"] == index)


@pytest.mark.parametrize("first", CUTS)
@pytest.mark.parametrize("second", CUTS)
@pytest.mark.parametrize("lost_after", [0, 1, 2])
def test_the_text_comes_once_however_steps_are_cut(
    first: tuple[int, ...], second: tuple[int, ...], lost_after: int
) -> None:
    events = Events()
    sent = [events.take(event) for event in stream(first)[:lost_after]]
    events.restart()
    sent += [events.take(event) for event in [*stream(second), b"data: [DONE]"]]
    assert text_of(sent) == TEXT
    assert sum(choice["finish_reason"] == "length" for answer in answers(sent) for choice in answer["choices"]) == 1
    assert sent[-1] == b"data: [DONE]"


def test_all_events_have_the_first_ones_id() -> None:
    events = Events()
    sent = [events.take(completion("a"))]
    events.restart()
    sent += [events.take(completion("abc"))]
    assert {(answer["id"], answer["created"]) for answer in answers(sent)} == {("cmpl-1", 1)}


def test_choices_are_counted_apart() -> None:
    events = Events()
    sent = [events.take(event) for index in (0, 1) for event in stream((4, 18), index)[: 1 + index]]
    events.restart()
    sent += [events.take(event) for index in (1, 0) for event in stream((6, 18), index)]
    assert text_of(sent, 0) == text_of(sent, 1) == TEXT


def test_a_role_and_log_probabilities_come_once() -> None:
    def chat(delta: dict[str, str], tokens: list[str]) -> bytes:
        content = {"content": [{"token": token} for token in tokens]}
        choice = {"index": 0, "delta": delta, "logprobs": content, "finish_reason": None}
        return b"data: " + json.dumps({"id": "x", "created": 1, "choices": [choice]}).encode()

    events = Events()
    sent = [events.take(chat({"role": "assistant", "content": "a b"}, ["a", " b"]))]
    events.restart()
    sent += [events.take(chat({"role": "assistant", "content": "a"}, ["a"]))]
    sent += [events.take(chat({"content": " b c"}, [" b", " c"]))]
    assert sent[1] is None
    (choice,) = answers(sent)[1]["choices"]
    assert choice["delta"] == {"content": " c"}
    assert choice["logprobs"] == {"content": [{"token": " c"}]}


def test_another_text_is_refused() -> None:
    events = Events()
    events.take(completion("one two"))
    events.restart()
    with pytest.raises(DifferentTextError):
        events.take(completion("one three"))


def test_comments_errors_and_usage_pass() -> None:
    events = Events()
    usage = b'data: {"id":"y","created":2,"choices":[],"usage":{"total_tokens":3}}'
    assert events.take(b": keep-alive") == b": keep-alive"
    assert events.take(b'data: {"error":{"message":"no"}}') == b'data: {"error":{"message":"no"}}'
    assert json.loads((events.take(usage) or b"")[len(b"data: ") :])["usage"] == {"total_tokens": 3}
