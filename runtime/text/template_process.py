"""Renders one chat template for the process that started this one; run as a program, with nothing but Jinja.

A template comes from a stranger and can loop for ever, or make texts of any size. Here it can: this process has little
memory, writes no file, and is ended by the system after ``SECONDS`` of computing.

The environment is the one that transformers documents for chat templates, so the text is the same: a sandbox that trims
blocks, with ``raise_exception``, ``strftime_now``, ``tojson``, loop controls and the ``generation`` tag.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from datetime import datetime
from typing import Any, NoReturn

# What the process that started this one can import.
sys.path += sys.argv[1:]

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0
"""Of the processor, for compiling the template and for each conversation; published templates take milliseconds."""
MEMORY = 2**29
MOST_CHARACTERS = 2**24


class GenerationTag(Extension):
    """``{% generation %}`` marks the model's turns for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  so Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def compile_template(source: str) -> Template:
    """Compile a chat template. Raises jinja2's TemplateSyntaxError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


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


def _limit() -> None:
    """Give up memory and files beyond what a template needs; some systems do not know some of the limits."""
    import resource

    for kind, most in (("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, kind), (most, most))


def _answer(line: str, template: Template | None) -> tuple[Template, str]:
    """Compile the first line, render by the others; the template and the text."""
    if template is None:
        return compile_template(json.loads(line)), ""
    text = template.render(**json.loads(line))
    if len(text) > MOST_CHARACTERS:
        raise TemplateError(f"it makes a text of {len(text)} characters")
    return template, text


def main() -> None:
    """Answer each line of JSON on stdin with one on stdout, until stdin ends."""
    _limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    template = None
    for line in sys.stdin:
        # Unlike a signal's handler in Python, the default action interrupts anything.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            template, text = _answer(line, template)
            answer = {"text": text}
        except Exception as error:  # whatever a template does wrong
            answer = {"error": str(error)[:1000] or type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
