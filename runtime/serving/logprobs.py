"""Log-probabilities in OpenAI's two forms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from runtime.sampling.logprobs import TokenLogprob
from runtime.serving import answers
from runtime.text.token_bytes import TokenBytes


def text_logprobs(
    entries: Sequence[TokenLogprob], pieces: Sequence[str], start: int, names: TokenBytes
) -> answers.TextLogprobs:
    """Of a completion's tokens, whose released texts ``pieces`` begin ``start`` characters into the choice's text."""
    return answers.TextLogprobs(
        tokens=[names.text(entry.token) for entry in entries],
        token_logprobs=[_finite(entry.logprob) for entry in entries],
        top_logprobs=[_best(entry, names) for entry in entries],
        text_offset=_offsets(pieces[: len(entries)], start),
    )


def echoed_logprobs(
    prompt: Sequence[int], text: str, entries: Sequence[TokenLogprob | None], names: TokenBytes
) -> answers.TextLogprobs:
    """Of the tokens of a prompt that is echoed as ``text``; the first one has no log-probability."""
    texts = [names.text(token) for token in prompt]
    unseen = sum(map(len, texts)) - len(text)  # the token that begins every text
    return answers.TextLogprobs(
        tokens=texts,
        token_logprobs=[None if entry is None else _finite(entry.logprob) for entry in entries],
        top_logprobs=[None if entry is None else _best(entry, names) for entry in entries],
        text_offset=[max(0, offset - unseen) for offset in _offsets(texts)],
    )


def joined(first: answers.TextLogprobs, second: answers.TextLogprobs) -> answers.TextLogprobs:
    """Both, in order."""
    return answers.TextLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )


def chat_logprobs(entries: Sequence[TokenLogprob], names: TokenBytes) -> answers.ChatLogprobs:
    """Of a turn's tokens."""
    return answers.ChatLogprobs(
        [
            answers.TokenLogprob(
                names.text(entry.token),
                _finite(entry.logprob),
                list(names.of(entry.token)),
                [
                    answers.TopLogprob(names.text(token), _finite(logprob), list(names.of(token)))
                    for token, logprob in entry.top
                ],
            )
            for entry in entries
        ]
    )


def _offsets(pieces: Sequence[str], start: int = 0) -> list[int]:
    return list(itertools.accumulate((len(piece) for piece in pieces[:-1]), initial=start)) if pieces else []


def _best(entry: TokenLogprob, names: TokenBytes) -> dict[str, float]:
    """The best tokens and the one that was chosen."""
    best = {names.text(token): _finite(logprob) for token, logprob in entry.top}
    return best | {names.text(entry.token): _finite(entry.logprob)}


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a probability of zero."""
    return max(logprob, -9999.0)
