"""/openapi.json: made from the types that bodies are checked with and answers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

import s2d_trt
from runtime.serving import answers, fields

_REF = "#/components/schemas/{name}"
_WHY = {
    400: "The body or a field is wrong; `error.param` names it",
    401: "The key is missing or wrong",
    404: "There is no such model",
    405: "Not with this method",
    408: "The body did not come in time",
    413: "The body is too large",
    422: "Well asked, but not of this model",
    429: "The queue is full; `Retry-After` says when to ask again",
    500: "The server failed",
    503: "The server is loading or about to end, or the request took too long",
}
_ANY, _BODY, _TEXT = (401, 405, 429), (400, 404, 408, 413, 500, 503), (422,)


@dataclass(frozen=True, slots=True)
class Operation:
    """One path with one method: that which is usual with a body, or without one, unless it is named."""

    path: str
    summary: str
    answer: type[Struct] | None
    errors: tuple[int, ...]
    body: type[Struct] | None = None
    streams: type[Struct] | None = None
    parameter: str | None = None
    method: str = ""
    media_type: str = "application/json"
    """Of an answer that is no ``answer``."""


OPERATIONS = (
    Operation(
        "/v1/completions", "Continue a text", answers.Completion, (*_ANY, *_BODY, *_TEXT), fields.CompletionBody,
        answers.Completion,
    ),
    Operation(
        "/v1/chat/completions", "Take the next turn of a conversation", answers.ChatCompletion,
        (*_ANY, *_BODY, *_TEXT), fields.ChatBody, answers.ChatChunk,
    ),
    Operation("/tokenize", "Text to token ids", answers.Tokens, (*_ANY, *_BODY, *_TEXT), fields.TokenizeBody),
    Operation("/detokenize", "Token ids to text", answers.Text, (*_ANY, *_BODY), fields.DetokenizeBody),
    Operation("/v1/models", "The targets", answers.ModelList, (*_ANY, 503)),
    Operation("/v1/models/{model}", "One target", answers.Model, (*_ANY, 404, 503), parameter="model"),
    Operation("/health", "200 when the server takes requests", answers.Health, (405, 429)),
    Operation("/openapi.json", "This description", None, (405, 429)),
)  # fmt: skip


def document(others: Sequence[Operation] = (), keys: bool = False, models: Sequence[str] = ()) -> dict[str, Any]:
    """The OpenAPI 3.1 document; ``others`` come beside the usual operations, and ``models`` can be asked for."""
    operations = (*OPERATIONS, *others)
    kinds = [kind for each in operations for kind in (each.body, each.answer, each.streams) if kind is not None]
    kinds = list(dict.fromkeys([*kinds, answers.ErrorBody]))
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for kind in kinds:
        if models and "model" in kind.__struct_fields__ and kind.__struct_config__.forbid_unknown_fields:
            _name_models(components[kind.__name__], models)
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method or ("post" if each.body else "get")] = _operation(each)
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "s2d-trt",
            "version": s2d_trt.__version__,
            "description": "Sorted speculative decoding for several targets over one draft, in OpenAI's interface.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        result["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        result["security"] = [{"key": []}]
    return result


def _name_models(body: dict[str, Any], models: Sequence[str]) -> None:
    """A body may leave the model out where there is one."""
    named = {"type": "string", "enum": [*models]}
    body["properties"]["model"] = {"anyOf": [named, {"type": "null"}]} if len(models) == 1 else named
    body["required"] = [*body["required"], *(["model"] if len(models) > 1 else [])]


def _operation(each: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if each.answer or not each.streams:
        kind = "object" if each.media_type == "application/json" else "string"
        content[each.media_type] = {"schema": _schema(each.answer) if each.answer else {"type": kind}}
    if each.streams:
        text = f"With `stream`: each event's data is a {each.streams.__name__}, an ErrorBody, or [DONE]"
        event = {"type": "object", "properties": {"data": {"type": "string", "description": text}}}
        content["text/event-stream"] = {"schema": {**event, "required": ["data"]}}
    responses: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    error = {"application/json": {"schema": _schema(answers.ErrorBody)}}
    responses |= {str(status): {"description": _WHY[status], "content": error} for status in sorted(each.errors)}
    if each.answer is answers.Health:
        responses["503"] = {"description": "Loading or draining", "content": content}
    operation: dict[str, Any] = {"summary": each.summary, "responses": responses}
    if each.body:
        body = {"application/json": {"schema": _schema(each.body)}}
        operation["requestBody"] = {"required": True, "content": body}
    if each.parameter:
        schema = {"type": "string", "minLength": 1}
        operation["parameters"] = [{"name": each.parameter, "in": "path", "required": True, "schema": schema}]
    return operation


def _schema(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
