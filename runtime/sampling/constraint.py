"""What a text must be: JSON of a schema, a match of a regular expression or a grammar, or one of some choices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from s2d_trt.errors import OptionError
from s2d_trt.reading import parse_json

Kind = Literal["json_schema", "regex", "lark", "choice"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """``text`` is a JSON schema, a regular expression, a grammar in llguidance's Lark dialect, or for ``choice`` a JSON
    list of strings. The whole new text must match.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise OptionError(f"constraint {self.kind} is unknown; use one of {', '.join(get_args(Kind))}")
        if not self.text.strip():
            raise OptionError(f"the {self.title} is empty; write one")
        if self.kind in ("json_schema", "choice"):
            try:
                value = parse_json(self.text)
            except ValueError as cause:
                raise OptionError(f"the {self.title} is not valid JSON ({cause}); correct it") from cause
            if self.kind == "choice" and not _are_texts(value):
                raise OptionError("choices must be a list of texts, none of them empty")

    @classmethod
    def json_schema(cls, schema: Any) -> Constraint:
        """A JSON document that ``schema``, an object or a bool, allows."""
        return cls("json_schema", json.dumps(schema))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Constraint:
        """One of ``texts``."""
        return cls("choice", json.dumps([*texts], ensure_ascii=False))

    @property
    def title(self) -> str:
        """The kind, in words."""
        titles = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar", "choice": "choice"}
        return titles[self.kind]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)
