"""Tools in chats, with the official client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.drafting.sorted_draft import SortedDraft
from runtime.sampling.constraint import Constraint
from runtime.targets.target import Target

openai = pytest.importorskip("openai", reason="openai is not installed: pip install -e '.[dev]'")
pytest.importorskip("llguidance", reason="llguidance is not installed: pip install -e '.[grammar]'")

TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool.function.name }};{% endfor -%}
{%- for m in messages %}{{ m.role[0] }}:{{ m.content }}{% for call in m.tool_calls or [] -%}
<call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</call>
{%- endfor %};{% endfor -%}
{%- if add_generation_prompt %}a:{% endif -%}
"""
QUESTION = [{"role": "user", "content": "the draft"}]
COLOURS = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": {**COLOURS, "additionalProperties": False}}}
STOP = {"type": "function", "function": {"name": "stop"}}
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def tool_decoder(
    target_checkpoint: Path, draft: SortedDraft, tmp_path_factory: pytest.TempPathFactory, engines: Path
) -> Decoder:
    from export import target as export_target

    checkpoint = Path(shutil.copytree(target_checkpoint, tmp_path_factory.mktemp("tools") / "checkpoint"))
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    out = engines / "tools.engine"
    export_target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return Decoder(Target.open(out, Placement(threads=1)), draft)


@pytest.fixture(scope="module")
def client(tool_decoder: Decoder) -> Iterator[Any]:
    from tests.runtime.serving.running import RunningServer

    with (
        RunningServer([tool_decoder]) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


def turn(client: Any, stream: bool, **fields: Any) -> Any:
    """Content, calls as (name, arguments), and the finish reason."""
    asked = {"model": "tools", "messages": QUESTION, "max_tokens": 100, "seed": 7, "tools": [PAINT, STOP], **fields}
    if not stream:
        (choice,) = client.chat.completions.create(**asked).choices
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        assert all(call.type == "function" and call.id for call in choice.message.tool_calls or [])
        return choice.message.content, calls, choice.finish_reason
    content, made, reason = "", list[list[str]](), None
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            content, reason = content + (choice.delta.content or ""), choice.finish_reason or reason
            for part in choice.delta.tool_calls or []:
                if part.index == len(made):
                    assert (part.type, bool(part.id)) == ("function", True)
                    made.append([part.function.name, ""])
                made[part.index][1] += part.function.arguments
    return content or None, [(name, arguments) for name, arguments in made], reason


@STREAMED
def test_a_named_tool_is_called_with_arguments_of_its_schema(client: Any, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "paint"}}
    content, [(name, arguments)], reason = turn(client, stream, tool_choice=choice)
    assert (content, name, reason) == (None, "paint", "tool_calls")
    assert json.loads(arguments)["c"] in ("red", "blue")


@STREAMED
@pytest.mark.parametrize("tools", [[PAINT], [STOP], [STOP, PAINT]], ids=["one", "no arguments", "two"])
def test_where_a_call_is_required_the_model_calls_one_of_the_tools(client: Any, stream: bool, tools: list[Any]) -> None:
    content, [(name, arguments)], reason = turn(client, stream, tool_choice="required", tools=tools)
    assert (content, reason) == (None, "tool_calls")
    assert name in [tool["function"]["name"] for tool in tools]
    assert arguments in (["{}"] if name == "stop" else ['{"c": "red"}', '{"c": "blue"}'])


def test_a_streamed_call_is_the_whole_one(client: Any) -> None:
    assert turn(client, True, tool_choice="required") == turn(client, False, tool_choice="required")


@STREAMED
def test_a_call_that_is_cut_off_says_so(client: Any, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "paint"}}
    _, calls, reason = turn(client, stream, tool_choice=choice, max_tokens=2)
    assert reason == "length"
    assert all(name == "paint" and "}" not in arguments for name, arguments in calls)


OF_NO_TOOL = '<call>{"name": "x", "arguments": {}}</call>'
SAID: dict[str, tuple[str, Any]] = {
    "a call": ('<call>{"name": "paint", "arguments": {"c": "red"}}</call>', (None, [("paint", '{"c": "red"}')])),
    "two calls": (
        '<call>{"name": "stop", "arguments": {}}</call><call>{"name": "paint", "arguments": {}}</call>',
        (None, [("stop", "{}"), ("paint", "{}")]),
    ),
    "content and a call": ('yes\n<call>{"name":"stop","arguments":{}}</call>', ("yes", [("stop", "{}")])),
    "content": ("a < b <call", ("a < b <call", [])),
    "a call of no tool": (OF_NO_TOOL, (OF_NO_TOOL, [])),
}


@STREAMED
@pytest.mark.parametrize(("said", "expected"), SAID.values(), ids=SAID)
def test_the_models_own_calls_are_found_in_its_text(
    client: Any, monkeypatch: pytest.MonkeyPatch, stream: bool, said: str, expected: Any
) -> None:
    from runtime.serving.tools import Toolbox

    monkeypatch.setattr(Toolbox, "constraint", property(lambda _: Constraint.choice([said])))
    reason = "tool_calls" if expected[1] else "stop"
    assert turn(client, stream) == (*expected, reason)


def test_parallel_calls_can_be_turned_off(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.serving.tools import Toolbox

    said, _ = SAID["two calls"]
    monkeypatch.setattr(Toolbox, "constraint", property(lambda _: Constraint.choice([said])))
    assert turn(client, False, parallel_tool_calls=False)[1] == [("stop", "{}")]


def test_without_a_choice_of_tools_the_prompt_has_them_and_the_text_is_free(client: Any, tool_decoder: Decoder) -> None:
    answer = client.chat.completions.create(model="tools", messages=QUESTION, max_tokens=4, tools=[PAINT], n=2)
    prompt = tool_decoder.chat_template.render(QUESTION, [PAINT])
    assert answer.usage.prompt_tokens == len(tool_decoder.encode(prompt, special_tokens=False))
    assert len(answer.choices) == 2


def test_with_the_choice_none_the_turn_is_one_without_tools(client: Any) -> None:
    assert turn(client, False, tool_choice="none", max_tokens=6) == turn(client, False, tools=openai.omit, max_tokens=6)


def test_calls_and_their_answers_can_be_put_into_the_next_request(client: Any) -> None:
    first = client.chat.completions.create(
        model="tools", messages=QUESTION, tools=[PAINT], tool_choice="required", max_tokens=100
    )
    message = first.choices[0].message
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
    second = client.chat.completions.create(model="tools", messages=[*QUESTION, message, answer], max_tokens=4)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two tools of one name": ({"tools": [PAINT, PAINT]}, "two tools have one name"),
    "no tools": ({"tools": []}, "tools"),
    "a choice without tools": ({"tools": None, "tool_choice": "required"}, "tool_choice needs tools"),
    "a choice that is no tool": (
        {"tool_choice": {"type": "function", "function": {"name": "gone"}}},
        "no tool is named gone",
    ),
    "a name with a quote": ({"tools": [{"type": "function", "function": {"name": 'a"b'}}]}, "tools[0].function.name"),
    "a tool of another kind": ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0]"),
    "a form beside tools": ({"response_format": {"type": "json_object"}}, "leave one out"),
    "a schema that is none": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": 7}}}],
         "tool_choice": "required"},
        "cannot be used",
    ),
    "arguments that are no JSON": (
        {"messages": [{"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{"}}]}]},
        "not valid JSON",
    ),
    "calls of the user": (
        {"messages": [{"role": "user", "content": "a", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}]}]},
        "belong to the role assistant",
    ),
    "an answer to nothing": ({"messages": [{"role": "tool", "content": "a"}]}, "belongs to the role tool"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "why"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_with_its_reason(client: Any, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        turn(client, False, **fields)
    assert why in refused.value.message


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_template_that_knows_no_tools_is_named(server: Any, choice: str) -> None:
    body = {"model": "chat", "messages": QUESTION, "tools": [PAINT], "tool_choice": choice}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 422
    assert "the chat template of chat knows no tools" in response.json()["error"]["message"]
