"""Conversations as the text that a chat model was trained on, rendered by the checkpoint's own Jinja template.

The environment is the one that transformers documents for chat templates, so the text is the same: a sandbox that trims
blocks, with ``raise_exception``, ``strftime_now``, ``tojson``, loop controls and the ``generation`` tag.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.targets.interface import TargetModel
from s2d_trt.errors import BundleError, OptionError

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

Message = Mapping[str, Any]
"""``role`` (system, user, assistant, tool), ``content``, and whatever else a template reads."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A compiled template and the special tokens that it may name."""

    template: Template
    special_tokens: Mapping[str, str]

    @classmethod
    def of(cls, target: TargetModel, name: str = "default") -> ChatTemplate:
        """Read and compile the template that came with the target; ``name`` chooses from a list of them.

        Raises:
            BundleError: there is none, or it is no valid Jinja.
        """
        config_path, template_path = target.companion(TOKENIZER_CONFIG), target.companion(TEMPLATE_FILE)
        try:
            config = json.loads(config_path.read_text(encoding="utf-8")) if config_path else {}
            source = template_path.read_text(encoding="utf-8") if template_path else config.get("chat_template")
        except (OSError, ValueError) as cause:
            raise BundleError(
                f"target {target.name}: its chat template cannot be read ({cause}); rebuild it"
            ) from cause
        if isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}.get(name)
        if not isinstance(source, str):
            raise BundleError(
                f"{target.name} has no chat template: its model was not trained on conversations; give plain text"
            )
        return cls(compile_template(source, f"target {target.name}"), _special_tokens(config))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, answer: bool = True
    ) -> str:
        """The conversation as text; with ``answer`` it ends where the model's next turn begins.

        Raises:
            OptionError: the template does not take these messages.
        """
        try:
            return self.template.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=answer, **self.special_tokens
            )
        except (TemplateError, TypeError, ValueError) as cause:
            raise OptionError(f"the chat template does not take this conversation: {cause}") from cause


def compile_template(source: str, origin: str) -> Template:
    """Compile a chat template; messages say that it comes from ``origin``.

    Raises:
        BundleError: it is no valid Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as cause:
        raise BundleError(f"{origin}: its chat template is no valid Jinja ({cause}); take the model's own") from cause


class _GenerationTag(Extension):
    """``{% generation %}`` marks the model's turns for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  so Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name. The configuration has a token as text, or as an object with that text."""
    tokens = {name: config[name] for name in SPECIAL_TOKENS if config.get(name) is not None}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
