"""Prompts to measure with: files of JSON lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from s2d_trt.errors import CapacityError, OptionError
from s2d_trt.reading import parse_json, read_text


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation: its turns are answered in order, each behind all text before it. Spec-Bench numbers them."""

    category: str
    turns: tuple[str, ...]
    question_id: int | None = None


def load_prompts(source: str, limit: int | None = None) -> list[Prompt]:
    """Read ``{"prompt": ...}`` lines or Spec-Bench question lines; ``demo`` names the shipped held-out ones.

    Raises:
        OptionError: the file cannot be read, or a line is neither form.
    """
    path = Path(str(resources.files(__name__) / "demo.jsonl")) if source == "demo" else Path(source)
    try:
        # Not splitlines: JSON strings may hold other line separators unescaped.
        lines = read_text(path).split("\n")
    except OSError as cause:
        raise OptionError(f"{source} cannot be read ({cause.strerror}); name a file of JSON lines, or demo") from cause
    except ValueError as cause:
        raise OptionError(f"{source}: {cause}; convert it to UTF-8") from cause
    prompts = [_parse(line, f"{source} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise OptionError(f'{source} holds no prompt; write one {{"prompt": "..."}} on a line')
    return prompts[:limit]


def _parse(line: str, where: str) -> Prompt:
    try:
        data = parse_json(line)
        category = str(data.get("category", ""))
        turns = [data["prompt"]] if "prompt" in data else data["turns"]
        question_id = data.get("question_id")
    except (ValueError, KeyError, AttributeError, TypeError):
        turns = []
    if not turns or not isinstance(turns, list) or not all(isinstance(turn, str) and turn for turn in turns):
        raise OptionError(f'{where} is neither {{"prompt": "..."}} nor a Spec-Bench question with "turns"; mend it')
    return Prompt(category, tuple(turns), question_id if isinstance(question_id, int) else None)


def encoded(decoder: Decoder, prompts: Iterable[Prompt], options: Options) -> list[tuple[str, list[int]]]:
    """Category and token ids of the prompts (of conversations the first turn) that the engines have room for."""
    fitting = []
    for prompt in prompts:
        with contextlib.suppress(CapacityError):
            fitting.append((prompt.category, decoder.request(prompt.turns[0], options).prompt))
    return fitting
