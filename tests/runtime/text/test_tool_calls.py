"""How templates write calls: found by rendering, whatever the family."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.text.chat import ChatTemplate, TemplateSource
from runtime.text.tool_calls import CallFormat
from s2d_trt.errors import BundleError

BEGIN = "{%- if tools %}{{ tools | tojson }}{% endif -%}{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}"
END = "<|end|>{% endfor -%}{%- if add_generation_prompt %}<|assistant|>{% endif -%}"
HERMES = """{%- for call in m.tool_calls or [] %}{{ '\\n' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{%- endfor %}"""
ONE_CALL = """{%- if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception("one call") }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}' }}{% endif %}"""
LIST = """{%- if m.tool_calls %}[TOOL_CALLS][{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- ', "id": "' + call.id + '"}' + ("" if loop.last else ", ") }}{% endfor %}]{% endif %}"""
FENCED = """{%- for call in m.tool_calls or [] %}<|call|>function<|sep|>{{ call.function.name }}
{{- '\\n```json\\n' + call.function.arguments + '\\n```' }}{% endfor %}"""
PARAMETERS = """{%- for call in m.tool_calls or [] %}<function={{ call.function.name }}>
{%- for key, value in call.function.arguments.items() %}<{{ key }}>{{ value }}{% endfor %}{% endfor %}"""
FORMATS = {
    "hermes": (
        HERMES,
        CallFormat(
            '\n<tool_call>\n{"name": "', '", "arguments": ', '}\n</tool_call>\n<tool_call>\n{"name": "', False
        ),
    ),
    "one call": (ONE_CALL, CallFormat('{"name": "', '", "parameters": ', None, False)),
    "a list with ids": (LIST, CallFormat('[TOOL_CALLS][{"name": "', '", "arguments": ', '"}, {"name": "', False)),
    "arguments as text": (
        FENCED, CallFormat("<|call|>function<|sep|>", "\n```json\n", "\n```<|call|>function<|sep|>", True)
    ),
}  # fmt: skip


def template(calls: str) -> ChatTemplate:
    return ChatTemplate(TemplateSource("chat", BEGIN + calls + END, {}))


@pytest.mark.parametrize(("calls", "expected"), FORMATS.values(), ids=FORMATS)
def test_the_form_of_a_call_is_the_templates(calls: str, expected: CallFormat) -> None:
    assert template(calls).call_format == expected


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (BEGIN + PARAMETERS + END, "another form than a name and JSON"),
        (BEGIN[BEGIN.index("{%- for") :] + END, "no tools"),
    ],
)
def test_a_template_that_says_no_form_is_refused(source: str, why: str) -> None:
    with pytest.raises(BundleError, match=f"the chat template of chat .*{why}"):
        _ = ChatTemplate(TemplateSource("chat", source, {})).call_format


@pytest.mark.parametrize("name", ["hermes", "a list with ids", "arguments as text"])
def test_what_a_template_wrote_is_read_again(name: str) -> None:
    known = template(FORMATS[name][0])
    calls = [("now", {}), ("clock", {"city": "Köln", "deep": {"list": [1, "}"]}})]
    text = known.call_format.before + "".join(
        f"{known.call_format.following if index else ''}{name}{known.call_format.between}{json.dumps(arguments)}"
        for index, (name, arguments) in enumerate(calls)
    )
    found = known.call_format.calls(text.lstrip(), ["clock", "now", "no"])
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


HERMES_FORMAT = FORMATS["hermes"][1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<tool_call>{"name":"now","arguments":{}}</tool_call>', [("now", "{}")]),
        ('<tool_call>\n{"name": "now", "arguments": {"a": 1}}', [("now", '{"a": 1}')]),
        ('<tool_call>\n{"name": "then", "arguments": {}}', []),
        ('<tool_call>\n{"name": "now", "arguments": {"a"', []),
        ('<tool_call>\n{"name": "now", "arguments": [1]}', []),
        ('<tool_call>\n{"name": "now", "arguments": ' + '{"a":' * 100_000, []),
        ("<tool_call>\n", []),
    ],
)
def test_white_space_is_free_and_the_rest_is_not(text: str, expected: Any) -> None:
    assert [*HERMES_FORMAT.calls(text, ["now"])] == expected


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("done", None),
        ("done <", 4),
        ("done\n<tool_call>", 4),
        ("a<b", None),
        ('x<tool_call>{"name":"now"', 1),
        ("a ", 1),
    ],
)
def test_where_a_call_may_begin_is_known_before_it_is_complete(text: str, at: int | None) -> None:
    assert HERMES_FORMAT.begins(text) == at


def test_special_tokens_are_in_no_text() -> None:
    shown = FORMATS["a list with ids"][1].without(["[TOOL_CALLS]"])
    assert shown.before == '[{"name": "'
