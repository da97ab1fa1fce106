"""How a chat template writes the calls of tools, found by rendering one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.text.prefix import common_prefix
from s2d_trt.errors import BundleError, OptionError

Render = Callable[..., str]
"""``ChatTemplate.render``."""

NAME, ARGUMENTS, IDS = "lookup_zq", {"key_zq": "value_zq"}, ("callZqAa1", "callZqBb2")
"""Of the calls that are rendered. Some templates want identifiers of nine letters and digits."""
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "look it up",
        "parameters": {"type": "object", "properties": {"key_zq": {"type": "string"}}, "required": ["key_zq"]},
    },
}
QUESTION = {"role": "user", "content": "question"}


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A call is ``before``, the tool's name, ``between``, and its arguments as JSON. ``following`` is ``before`` of a
    call behind another one, None where a turn has one call. ``arguments_as_text``: the template reads arguments as
    text, not as an object.
    """

    before: str
    between: str
    following: str | None
    arguments_as_text: bool

    def without(self, special_tokens: Sequence[str]) -> CallFormat:
        """As a text shows it, which has no special tokens."""

        def shown(text: str) -> str:
            for token in special_tokens:
                text = text.replace(token, "")
            return text

        following = None if self.following is None else shown(self.following)
        return CallFormat(shown(self.before), shown(self.between), following, self.arguments_as_text)

    def begins(self, text: str) -> int | None:
        """Where ``text`` may go on as a call, white space before it included; whatever its white space. None if
        nowhere.
        """
        mark = _squeezed(self.before)
        for at in range(len(text)):
            tail = _squeezed(text[at:])
            if mark.startswith(tail) or tail.startswith(mark):
                return at
        return None

    def calls(self, text: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Name and arguments of the calls in ``text``, which begins with one; up to what is no call of ``names``."""
        name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        starts = "|".join(_lenient(start) for start in {self.before, self.following or self.before})
        call = re.compile(f"(?:{starts})\\s*({name})\\s*{_lenient(self.between)}\\s*")
        found = call.match(text)
        while found:
            try:
                arguments, end = json.JSONDecoder().raw_decode(text, found.end())
            except (ValueError, RecursionError):
                return
            if not isinstance(arguments, dict):
                return
            yield found[1], text[found.end() : end]
            found = call.search(text, end)


def find_call_format(render: Render, target: str) -> CallFormat:
    """Render calls and see what the template makes of them. Raises BundleError where it knows no tools, or writes calls
    in another way than as a name and JSON.
    """
    described = _rendered(render, [QUESTION], [TOOL])
    if described is None or NAME not in described:
        raise BundleError(f"the chat template of {target} knows no tools: leave out tools, their calls and answers")
    said = _rendered(render, [QUESTION, {"role": "assistant", "content": "answer"}], [TOOL], answer=False) or ""
    for as_text in (False, True):
        calls = [tool_call(identifier, NAME, json.dumps(ARGUMENTS), as_text) for identifier in IDS]
        turns = [{"role": "assistant", "content": "", "tool_calls": calls[:count]} for count in (1, 2)]
        one, two = (_rendered(render, [QUESTION, turn], [TOOL], answer=False) for turn in turns)
        if one and (found := _parse(one, common_prefix(one, said))):
            before, between, end = found
            follows = two and _parse(two, end)
            following = follows[0].rsplit(IDS[0], 1)[-1] if follows else None
            return CallFormat(before, between, following, as_text)
    raise BundleError(
        f"the chat template of {target} writes calls in another form than a name and JSON: leave out tools"
    )


def tool_call(identifier: str, name: str, arguments: str, as_text: bool) -> dict[str, Any]:
    """One call as templates read it. Raises OptionError where the arguments are no JSON object."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as cause:
        raise OptionError(f"the arguments of the call {identifier} are not valid JSON ({cause})") from cause
    if not isinstance(value, dict):
        raise OptionError(f"the arguments of the call {identifier} are not a JSON object")
    function = {"name": name, "arguments": arguments if as_text else value}
    return {"function": function, "type": "function", "id": identifier}


def _rendered(
    render: Render, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], answer: bool = True
) -> str | None:
    try:
        return render(messages, tools, answer)
    except OptionError:  # for example, a template that takes one call a turn
        return None


def _parse(text: str, start: int) -> tuple[str, str, int] | None:
    """What comes before the first name behind ``start``, what comes before its arguments, and where these end."""
    name = text.find(NAME, start)
    behind = name + len(NAME)
    for brace in re.finditer(r"\{", text[behind:]) if name >= 0 else ():
        at = behind + brace.start()
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            continue
        if value == ARGUMENTS:
            return text[start:name], text[behind:at], end
    return None


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _lenient(text: str) -> str:
    """A regular expression for ``text`` with any white space between its words and signs."""
    return r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", text)))
