"""Tools of a chat: what is asked of the model, and what a turn's text says: content, or calls."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import to_builtins

from runtime.sampling.constraint import Constraint
from runtime.serving.answers import CalledFunction, CallPart, FunctionPart, ToolCall
from runtime.serving.errors import bad_request
from runtime.serving.fields import ChatBody, FunctionChoice, PlainText, ToolFunction
from runtime.serving.targets import ServedTarget
from runtime.text.chat import Message
from runtime.text.tool_calls import CallFormat
from s2d_trt.errors import BundleError

SPACING = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
"""Arguments as templates write them; a weak model can go on with white space for ever."""
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that a turn may call, and how its model calls them.

    Where a call is ``forced``, the prompt ends with what comes before a name, and the text is the rest of one call, by
    ``constraint``. Otherwise the model decides, and its text is searched for calls.
    """

    functions: Sequence[ToolFunction]
    format: CallFormat
    forced: bool
    several: bool

    @classmethod
    def of(cls, body: ChatBody, served: ServedTarget) -> Toolbox | None:
        """What a body asks for, None where no tool may be called. Takes a while where the target's template was not
        used before. Raises ApiError, and BundleError where the target's chat template knows no tools.
        """
        functions = [tool.function for tool in body.tools or []]
        names, choice = [function.name for function in functions], body.tool_choice or "auto"
        if len({*names}) < len(names):
            raise bad_request("two tools have one name", "tools", "invalid_value")
        if not functions:
            if body.tool_choice not in (None, "none", "auto"):
                raise bad_request("tool_choice needs tools", "tool_choice", "invalid_value")
            return None
        if choice == "none":
            return None
        if isinstance(choice, FunctionChoice):
            functions = [function for function in functions if function.name == choice.function.name]
            if not functions:
                raise bad_request(f"no tool is named {choice.function.name}", "tool_choice", "invalid_value")
        if body.structured_outputs is not None or not isinstance(body.response_format, PlainText | None):
            raise bad_request("a text is a call or has a form; leave one out", "response_format", "invalid_value")
        rendered, forced = served.decoder.chat_template.call_format, choice != "auto"
        found = cls(functions, rendered.without(served.special_tokens), forced, body.parallel_tool_calls is not False)
        if not (forced or found.format.before.strip()):
            raise BundleError(
                f"a text of {served.name} does not show where a call begins; say which tool is to be called, or"
                ' "required", in tool_choice'
            )
        return found

    @property
    def constraint(self) -> Constraint | None:
        """What a forced call must be."""
        if not self.forced:
            return None
        starts = [json.dumps(function.name + self.format.between, ensure_ascii=False) for function in self.functions]
        schemas = [json.dumps({**(function.parameters or NO_ARGUMENTS), **SPACING}) for function in self.functions]
        lines = [f"start: {' | '.join(f'call_{index}' for index in range(len(starts)))}"]
        lines += [f"call_{index}: {start} arguments_{index}" for index, start in enumerate(starts)]
        lines += [f"arguments_{index}: %json {schema}" for index, schema in enumerate(schemas)]
        return Constraint("lark", "\n".join(lines))

    def prompt(self, body: ChatBody, messages: Sequence[Message], served: ServedTarget) -> str:
        """The conversation as the template writes it with the tools, up to the model's next text."""
        template = served.decoder.chat_template
        text = template.render(messages, to_builtins(body.tools))
        return text + template.call_format.before if self.forced else text


@dataclass(slots=True)
class Turn:
    """What the text of one choice says, as it comes."""

    tools: Toolbox | None
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    _pending: str = ""

    def push(self, text: str) -> tuple[str, list[CallPart]]:
        """Take more text. New content, and parts of a forced call; other calls are known at the end."""
        if self.tools is None:
            return self._say(text), []
        self._pending += text
        if self.tools.forced:
            return "", self._forced(self.tools)
        at = self.tools.format.begins(self._pending)
        said, self._pending = self._pending[:at], "" if at is None else self._pending[at:]
        return self._say(said), []

    def end(self) -> tuple[str, list[CallPart]]:
        """The text has ended: what was held back. A call of no tool, or a broken one, is content."""
        if self.tools is None or self.tools.forced:
            return "", []
        found = self.tools.format.calls(self._pending.lstrip(), [each.name for each in self.tools.functions])
        for name, arguments in found:
            if self.tools.several or not self.calls:
                self.calls.append(ToolCall(_identifier(), "function", CalledFunction(name, arguments)))
        if not self.calls:
            return self._say(self._pending), []
        parts = [
            CallPart(index, FunctionPart(call.function.arguments, call.function.name), call.id, "function")
            for index, call in enumerate(self.calls)
        ]
        return "", parts

    def _say(self, text: str) -> str:
        self.content += text
        return text

    def _forced(self, tools: Toolbox) -> list[CallPart]:
        """The name once it is complete, then the arguments."""
        if self.calls:
            text, self._pending = self._pending, ""
            self.calls[0].function.arguments += text
            return [CallPart(0, FunctionPart(text))] if text else []
        for function in tools.functions:
            start = function.name + tools.format.between
            if self._pending.startswith(start):
                text, self._pending = self._pending[len(start) :], ""
                call = ToolCall(_identifier(), "function", CalledFunction(function.name, text))
                self.calls.append(call)
                return [CallPart(0, FunctionPart(text, function.name), call.id, "function")]
        return []


def _identifier() -> str:
    """Nine letters and digits, which every template takes."""
    return secrets.token_hex(5)[:9]
