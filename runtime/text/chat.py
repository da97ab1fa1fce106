"""Conversations as the text that a chat model was trained on, rendered by the checkpoint's own Jinja template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runtime.targets.interface import TargetModel
from runtime.text.rendering import RenderingError, TemplateProcess
from runtime.text.tool_calls import CallFormat, find_call_format
from s2d_trt.errors import BundleError, OptionError
from s2d_trt.reading import read_json, read_text, reading

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
MOST_BYTES = 2**20
"""Of a template; published ones have up to 20 KB."""

Message = Mapping[str, Any]
"""``role`` (system, user, assistant, tool), ``content``, and whatever else a template reads."""


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A template's text, None where a target has none, and the special tokens that it may name."""

    target: str
    text: str | None
    special_tokens: Mapping[str, str]

    @classmethod
    def of(cls, target: TargetModel, name: str = "default") -> TemplateSource:
        """Read the template that came with the target; ``name`` chooses from a list of them.

        Raises:
            BundleError: a file is damaged.
        """
        config: Any = {}
        if config_path := target.companion(TOKENIZER_CONFIG):
            with reading(config_path, BundleError, "build the bundle again"):
                config = read_json(config_path)
        config = config if isinstance(config, dict) else {}
        found = config.get("chat_template")
        if template_path := target.companion(TEMPLATE_FILE):
            with reading(template_path, BundleError, "build the bundle again"):
                found = read_text(template_path, MOST_BYTES)
        if isinstance(found, list):
            named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == name]
            found = named[0].get("template") if named else None
        text = found if isinstance(found, str) and len(found) <= MOST_BYTES else None
        return cls(target.name, text, _special_tokens(config))


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: TemplateSource) -> None:
        if source.text is None:
            raise BundleError(
                f"{source.target} has no chat template: its model was not trained on conversations; give plain text"
            )
        self._source, self._process = source, TemplateProcess(source.text)
        try:
            self._process.compile()
        except RenderingError as cause:
            raise BundleError(
                f"target {source.target}: its chat template cannot be compiled as Jinja ({cause}); take the model's own"
            ) from cause

    @classmethod
    def of(cls, target: TargetModel, name: str = "default") -> ChatTemplate:
        """Read and compile the template that came with the target; ``name`` chooses from a list of them.

        Raises:
            BundleError: there is none, or it is no valid Jinja.
        """
        return cls(TemplateSource.of(target, name))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, answer: bool = True
    ) -> str:
        """The conversation as text; with ``answer`` it ends where the model's next turn begins.

        Raises:
            OptionError: the template does not take these messages, or it takes too long or too much memory for them.
        """
        variables = {"messages": list(messages), "tools": tools, "documents": None, "add_generation_prompt": answer}
        try:
            return self._process.render(variables | dict(self._source.special_tokens))
        except (RenderingError, TypeError, ValueError, RecursionError) as cause:
            raise OptionError(
                f"the chat template of {self._source.target} does not take this conversation: {cause}"
            ) from cause

    @cached_property
    def call_format(self) -> CallFormat:
        """How the model calls tools. Raises BundleError where the template does not say it."""
        return find_call_format(self.render, self._source.target)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name. The configuration has a token as text, or as an object with that text."""
    found = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
