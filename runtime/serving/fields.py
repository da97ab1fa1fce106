"""What clients send: one description of each body, by which it is checked and from which the schema is made.

msgspec decodes and checks in one pass, refuses what is not described by its name, and makes JSON schemas of the same
types. None always means the default.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from runtime.serving.errors import bad_request

Body = TypeVar("Body", bound=Struct)
Positive = Annotated[int, Meta(ge=1, le=2**31)]
Share = Annotated[float, Meta(ge=0, le=1)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
TokenId = Annotated[int, Meta(ge=0, le=2**31)]
ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
Candidates = Annotated[int, Meta(ge=0, le=20)]

_ONE_KIND = {
    "anyOf": [
        {"items": {"type": "string"}},
        {"items": {"type": "integer", "minimum": 0}},
        {"items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}},
    ]
}
Prompts = Annotated[
    list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]],
    Meta(min_length=1, extra_json_schema=_ONE_KIND),
]

Biases = Annotated[
    dict[str, Annotated[float, Meta(ge=-100, le=100)]],
    Meta(max_length=4096, extra_json_schema={"propertyNames": {"pattern": "^[0-9]{1,9}$"}}),
]


class Tree(Struct, forbid_unknown_fields=True):
    """The largest tree that a step may draft."""

    depth: Annotated[int, Meta(ge=0, le=255)] | None = None
    """d means at most d + 1 draft passes a step."""
    top_k: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Most nodes expanded at each level; 1 is a chain."""
    nodes: Annotated[int, Meta(ge=2, le=1024)] | None = None
    """Most nodes verified in a step, the root included."""


class Speculative(Struct, forbid_unknown_fields=True):
    """How the text is drafted. It decides the speed; the text only where a tree with branches is asked for, and there
    only between ties of rounding size."""

    enabled: bool | None = None
    """False: the target decodes alone."""
    policy: Literal["adaptive", "fixed"] | None = None
    thresholds: Annotated[list[Annotated[float, Meta(ge=-1e6, le=1e6)]], Meta(min_length=1, max_length=64)] | None = (
        None
    )
    """Confidence above which each exit answers."""
    tree: Literal["chain", "paper"] | Tree | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """What a stream holds besides the text."""

    include_usage: bool | None = None
    """A last part with the usage and no choice."""
    continuous_usage_stats: bool | None = None
    """The usage so far in every part (vLLM's)."""


class PlainText(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObject(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct, forbid_unknown_fields=True):
    """``name``, ``description`` and ``strict`` change nothing: the text always fits the schema."""

    name: Annotated[str, Meta(max_length=256)]
    schema: dict[str, Any] | bool
    description: str | None = None
    strict: bool | None = None


class JsonSchema(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """A JSON document that the schema allows."""

    json_schema: NamedSchema


ResponseFormat = PlainText | JsonObject | JsonSchema


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """What the text must be, in vLLM's form: one of these. ``grammar`` is in llguidance's Lark dialect."""

    json: dict[str, Any] | bool | None = None
    regex: Annotated[str, Meta(min_length=1)] | None = None
    choice: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)] | None = None
    grammar: Annotated[str, Meta(min_length=1)] | None = None


class Generation(Struct, forbid_unknown_fields=True, kw_only=True):
    """What completions and chats have in common."""

    model: Annotated[str, Meta(max_length=256)] | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Meta(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: Biases | None = None
    seed: Annotated[int, Meta(ge=0, extra_json_schema={"maximum": 2**64 - 1})] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=1024)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    user: Annotated[str, Meta(max_length=256)] | None = None
    speculative: Speculative | None = None


class CompletionBody(Generation, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions: continue a text."""

    prompt: str | Prompts
    echo: bool | None = None
    logprobs: Candidates | None = None


class ContentPart(Struct, forbid_unknown_fields=True):
    """A part of a message; only text is taken."""

    type: Literal["text"]
    text: str


class CalledFunction(Struct, forbid_unknown_fields=True):
    """``arguments`` is a JSON object as text."""

    name: ToolName
    arguments: str


class ToolCall(Struct, forbid_unknown_fields=True):
    """A call in an earlier turn of the model."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Struct, forbid_unknown_fields=True):
    """One turn of a conversation; the role ``tool`` answers the call ``tool_call_id``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1, max_length=128)] | None = None
    tool_call_id: str | None = None


class ToolFunction(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may call; ``parameters`` is a JSON schema. ``strict`` changes nothing: the arguments of
    a forced call always fit the schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(Struct, forbid_unknown_fields=True):
    """The name of one of the tools."""

    name: ToolName


class FunctionChoice(Struct, forbid_unknown_fields=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(Generation, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions: the next turn of a conversation."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Candidates | None = None
    tools: Annotated[list[Tool], Meta(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None


class TokenizeBody(Struct, forbid_unknown_fields=True):
    """POST /tokenize: a text, or a conversation by the chat template."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None


class DetokenizeBody(Struct, forbid_unknown_fields=True):
    """POST /detokenize: token ids to text."""

    tokens: list[TokenId]
    model: str | None = None


_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<place>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)


def read_body(data: bytes, kind: type[Body]) -> Body:
    """Decode and check a JSON body. Raises ApiError that names the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as cause:
        raise _field_error(str(cause)) from cause
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise bad_request(f"the body is not valid JSON in UTF-8: {cause}", code="invalid_json") from cause


def _field_error(message: str) -> Exception:
    found = _PLACE.match(message)
    what, place = (found["what"], found["place"] or None) if found else (message, None)
    if unknown := _UNKNOWN.search(what):
        name = ".".join(filter(None, (place, unknown["name"])))[:200]
        return bad_request(f"field '{name}' is not supported; leave it out", name, "unsupported_field")
    what = what[:1].lower() + what[1:]
    missing = re.search(r"missing required field `(\w+)`", what)
    if missing:
        place = ".".join(filter(None, (place, missing[1])))
    return bad_request(f"{place or 'the body'}: {what}", place, "invalid_value")
