"""A stream that goes on from another replica: the same texts come again, and what was sent is left out.

The seed is part of the request, and where targets are exact a text's bits depend on nothing else that replicas differ
in, so the new stream begins with what was sent. That is checked: a text that differs ends the stream.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


class DifferentTextError(Exception):
    """The new stream does not begin with what was sent."""


@dataclass(slots=True)
class _Sent:
    """What a client has of one choice, and how far the present stream has come."""

    text: str = ""
    tokens: int = 0
    """Entries of log-probabilities."""
    role: bool = False
    ended: bool = False
    text_at: int = 0
    tokens_at: int = 0


@dataclass(slots=True)
class Events:
    """The events of a stream, of completions or chats, over the replicas that it comes from."""

    head: dict[str, Any] = field(default_factory=dict)
    """``id`` and ``created`` of the first event, which all have."""
    sent: dict[int, _Sent] = field(default_factory=dict)

    def restart(self) -> None:
        """The next event is the first one of another replica."""
        for sent in self.sent.values():
            sent.text_at = sent.tokens_at = 0

    def take(self, event: bytes) -> bytes | None:
        """What to send for an event (without the empty line behind it); None where the client has all of it.

        Raises:
            DifferentTextError: the text is not the one that was sent.
        """
        if not event.startswith(b"data: {"):
            return event  # comments, and the end of the stream
        answer = json.loads(event[len(b"data: ") :])
        if "error" in answer:
            return event
        if not self.head:
            self.head = {name: answer[name] for name in ("id", "created") if name in answer}
        answer |= self.head
        choices = answer.get("choices") or []
        kept = [choice for choice in choices if self._cut(choice)]
        if choices and not kept:
            return None
        answer["choices"] = kept
        return b"data: " + json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()

    def _cut(self, choice: dict[str, Any]) -> bool:
        """Take what was sent out of a choice; whether something is left."""
        sent = self.sent.setdefault(choice["index"], _Sent())
        place, name = (choice["delta"], "content") if "delta" in choice else (choice, "text")
        new_text = self._cut_text(place, name, sent)
        new_tokens = _cut_logprobs(choice, sent)
        new_role = "role" in place and not sent.role
        if "role" in place:
            sent.role = True
            if not new_role:
                del place["role"]
        new_end = choice.get("finish_reason") is not None and not sent.ended
        sent.ended |= new_end
        return new_text or new_tokens or new_role or new_end

    def _cut_text(self, place: dict[str, Any], name: str, sent: _Sent) -> bool:
        text = place.get(name)
        if text is None:
            return False
        known = sent.text[sent.text_at : sent.text_at + len(text)]
        if not text.startswith(known):
            raise DifferentTextError("the text of another replica differs from what was sent")
        place[name] = text[len(known) :]
        sent.text_at += len(text)
        sent.text += place[name]
        return bool(place[name])


def _cut_logprobs(choice: dict[str, Any], sent: _Sent) -> bool:
    logprobs = choice.get("logprobs")
    if not logprobs:
        return False
    lists = [values for values in logprobs.values() if isinstance(values, list)]
    count = max(map(len, lists), default=0)
    known = min(count, max(0, sent.tokens - sent.tokens_at))
    for values in lists:
        del values[:known]
    sent.tokens_at += count
    sent.tokens = max(sent.tokens, sent.tokens_at)
    return count > known
