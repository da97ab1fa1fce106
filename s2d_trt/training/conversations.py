"""Conversations as training text: the chat template renders them, and only the assistant's turns are learnt.

Files are JSON lists or JSON lines of ``{"conversations": [{"from": "human", "value": ...}, ...]}`` (ShareGPT) or
``{"messages": [{"role": "user", "content": ...}, ...]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from tokenizers import Tokenizer
from tqdm import tqdm

from s2d_trt.errors import OptionError
from s2d_trt.reading import parse_json, read_text
from s2d_trt.training.windows import Stream

ROLES = {
    "human": "user", "user": "user", "system": "system", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
}  # fmt: skip
"""Names of speakers in ShareGPT's files and in chat templates, and the role of each."""

MOST_BYTES = 2**35
"""Of a file of conversations; it is read as a whole."""

Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""Renders messages to text; if the flag is true, with the prompt for the assistant's next turn at the end."""


@dataclass(slots=True)
class Document:
    """A rendered conversation, and the (start, end) of each of the assistant's turns in characters."""

    text: str
    answers: list[tuple[int, int]] = field(default_factory=list)


def read_conversations(path: Path) -> list[list[Message]]:
    """The conversations of a file, without those that have no answer.

    Turns of the assistant before the first question are dropped.

    Raises:
        OptionError: the file has another form, or holds no conversation with an answer.
    """
    try:
        text = read_text(path, MOST_BYTES)
        if path.suffix == ".jsonl":
            # Not splitlines: JSON strings may hold other line separators unescaped.
            entries = [parse_json(line) for line in text.split("\n") if line.strip()]
        else:
            entries = parse_json(text)
    except (OSError, ValueError) as cause:
        raise OptionError(f"{path} cannot be read ({cause}); conversations are JSON or JSON lines") from cause
    if not isinstance(entries, list):
        raise OptionError(f"{path} holds no list of conversations; see s2d_trt.training.conversations for the form")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            messages = _messages(entry)
        except (KeyError, TypeError) as cause:
            raise OptionError(
                f"{path}, conversation {number} is not in ShareGPT's form ({cause!r}); mend or remove it"
            ) from cause
        if any(message["role"] == "assistant" for message in messages):
            found.append(messages)
    if not found:
        raise OptionError(f"{path} holds no conversation with an answer; name a file that does")
    return found


def _messages(entry: dict[str, Any]) -> list[Message]:
    """Turns with standard roles; consecutive turns of one role are joined, and empty ones dropped."""
    if "conversations" in entry:
        turns = [(turn["from"], turn["value"]) for turn in entry["conversations"]]
    else:
        turns = [(turn["role"], turn["content"]) for turn in entry["messages"]]
    messages: list[Message] = []
    for who, said in turns:
        role = ROLES[who]
        if not isinstance(said, str):
            raise TypeError("content that is no text")
        if not said.strip() or (role == "assistant" and not any(m["role"] == "user" for m in messages)):
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{said}"
        else:
            messages.append({"role": role, "content": said})
    return messages


def documents(messages: Sequence[Message], render: Render) -> Iterator[Document]:
    """The conversation as one document, or as several if the template changes earlier turns.

    The assistant's turn starts after the generation prompt and includes the end-of-turn token: the model has to
    generate exactly that.

    Raises:
        OptionError: the template rejects the messages, or its text does not start with its generation prompt.
    """
    document = Document("")
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            prompt, text = render(messages[:index], True), render(messages[: index + 1], False)
        except (TemplateError, TypeError, ValueError) as cause:
            begins = messages[0]["content"][:40]
            raise OptionError(
                f"the chat template refuses the conversation that begins {begins!r} ({cause}); remove it"
            ) from cause
        if not text.startswith(prompt):
            raise OptionError("the chat template does not continue its generation prompt; give another --chat-template")
        if document.answers and not text.startswith(document.text):
            # Templates of reasoning models remove the reasoning of earlier turns.
            yield document
            document = Document("")
        document.text = text
        document.answers.append((len(prompt), len(text)))
    if document.answers:
        yield document


def tokenize(conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, render: Render) -> Stream:
    """All conversations as one stream; special tokens come from the chat template only."""
    bar = tqdm(conversations, "conversations", disable=None, leave=False)
    found = [document for messages in bar for document in documents(messages, render)]
    encoded = tokenizer.encode_batch([document.text for document in found], add_special_tokens=False)
    return Stream.join(_stream(item, document) for item, document in zip(encoded, found, strict=True))


def _stream(encoding: Any, document: Document) -> Stream:
    starts = np.array([start for start, _ in encoding.offsets])
    counted = np.zeros(len(starts), bool)
    for first, end in document.answers:
        counted |= (starts >= first) & (starts < end)
    return Stream(np.array(encoding.ids, np.int32), counted)
