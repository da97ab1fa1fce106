"""One text being generated: its options and all of its state."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.backends import Logits
from runtime.decoding.options import Options
from runtime.decoding.pair import Pair
from runtime.decoding.rules import chooser_of, stop_tokens
from runtime.decoding.stats import Stats
from runtime.drafting.proposal import Outcome
from runtime.drafting.text import TextDrafting
from runtime.sampling.logprobs import TokenLogprob, token_logprob
from runtime.sampling.noise import Noise
from runtime.targets.interface import Chunk, TargetModel, TargetSequence
from runtime.text.tokenizer import TextStream
from s2d_trt.errors import BundleError, CapacityError, OptionError

FinishReason = Literal["stop", "length", "capacity", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step added: ``tokens``, of which the first ``drafted`` were proposed by a drafter.

    ``pieces`` is the text released with each token; ``logprobs`` has an entry for each token where they were asked for.
    The text of a stop token is left out. The last step of a cancelled request has no token, and one piece
    with the text that was held back for a stop string.
    """

    tokens: list[int]
    drafted: int
    pieces: list[str]
    logprobs: list[TokenLogprob] | None = None

    @property
    def text(self) -> str:
        """Text released by this step."""
        return "".join(self.pieces)


class Request:
    """All state of one text. Several requests run together, or take turns on the same engines.

    ``sequence`` is the text in the target and ``drafting`` its drafters, both None while it does not run. ``exact``,
    settled when the request starts, says whether its text and scores are bit-identical to the target's own.
    """

    def __init__(self, prompt: Sequence[int], options: Options, pair: Pair) -> None:
        target = pair.target
        self.pair = pair
        self.prompt, self.options = _checked_prompt(prompt, target), options
        sampling = options.sampling
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self.noise = Noise(self.seed, sampling.temperature, target.vocab_size)
        self.chooser = chooser_of(self.prompt, options, self.noise, pair)
        self.prompt_logprobs: list[TokenLogprob | None] | None = None if options.prompt_logprobs is None else [None]
        """Of each token of the prompt but the first, as they become known; None where they were not asked for."""
        self.stats = Stats()
        self.tokens: list[int] = []
        """New tokens so far."""
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        """Why the text ended with finish reason ``error``."""
        self.started = self.exact = self.cancelled = False
        self.sequence: TargetSequence | None = None
        self.drafting: TextDrafting | None = None
        self.usual_rows = 1.0
        """Rows that the text had in the target's latest calls."""
        self._stream = TextStream(pair.tokenizer, options.stop)
        self._stop_tokens = frozenset(stop_tokens(options, target))
        self._limit = min(options.max_new_tokens, target.max_length - len(self.prompt))

    @property
    def text(self) -> str:
        """Text released so far."""
        return self._stream.text

    @property
    def length(self) -> int:
        """Tokens in the text, the prompt included."""
        return len(self.prompt) + len(self.tokens)

    @property
    def leased(self) -> TargetSequence:
        """The text in the target, while it runs."""
        assert self.sequence is not None
        return self.sequence

    @property
    def left(self) -> list[int]:
        """Tokens before the last one that the target has not committed; after a preemption, also the text's own."""
        held = self.sequence.length if self.sequence is not None else 0
        if held == self.length - bool(self.tokens):
            return []
        return [*self.prompt, *self.tokens[:-1]][held:]

    @property
    def remaining(self) -> int:
        """New tokens that may still come."""
        return self._limit - len(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """New tokens over wall time, prefill included."""
        return len(self.tokens) / self.stats.total if self.stats.total else 0.0

    @property
    def finished(self) -> bool:
        """Whether no further step will come."""
        return self.finish_reason is not None

    def cancel(self) -> None:
        """Ask for the end of the text before its next step, from any thread; what was generated stays."""
        self.cancelled = True

    def append(self, tokens: Sequence[int], drafted: int) -> Step:
        """Add what a step accepted, up to the token that ends the text.

        Raises:
            BundleError: the score of a token is not a finite number.
        """
        self._check_scores(len(tokens))
        kept: list[int] = []
        pieces: list[str] = []
        first = len(self.tokens)
        for token in tokens:
            released = len(self.text)
            kept.append(token)
            self.tokens.append(token)
            if token in self._stop_tokens:
                self.finish("stop")
            elif self._stream.push(token, len(self.tokens) > self.options.min_tokens):
                self.finish_reason = "stop"
            elif self.chooser.ended and len(kept) == len(tokens):  # no token was chosen behind it
                self.finish("stop")
            elif not self.remaining:
                self.finish("length" if len(self.tokens) == self.options.max_new_tokens else "capacity")
            pieces.append(self.text[released:])
            if self.finished:
                break
        logprobs = None if self.options.logprobs is None else self.chooser.logprobs[first : len(self.tokens)]
        return Step(kept, min(drafted, len(kept)), pieces, logprobs)

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt were asked for and are not all known."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt)

    def score_prompt(self, chunk: Chunk, logits: Logits) -> None:
        """Note the log-probabilities of the tokens behind those of ``chunk``, the part that was committed last."""
        if self.prompt_logprobs is None or not chunk.scored:
            return
        start, top = self.leased.length - len(chunk), self.options.prompt_logprobs or 0
        for position in range(len(self.prompt_logprobs), min(start + len(chunk) + 1, len(self.prompt))):
            row = logits[position - 1 - start]
            self.prompt_logprobs.append(token_logprob(row, self.prompt[position], top))

    def _check_scores(self, count: int) -> None:
        """Where a logit is NaN or infinite, so is the score of the chosen token."""
        for index, score in enumerate(self.chooser.chosen_scores[-count:]):
            if not math.isfinite(score):
                raise BundleError(
                    f"target {self.pair.target.name} gives a score of {score} for token {self.length + index} of the"
                    " text: its weights are damaged, or too large for its precision; check it with --verify, or build"
                    " it again"
                )

    def record(self, outcome: Outcome) -> None:
        """Count a step, and let the drafting learn from it."""
        exits = self.pair.draft.exits if self.pair.draft else ()
        self.stats.record(outcome.proposal, exits, len(outcome.path), outcome.times)
        self.usual_rows += (len(outcome.proposal.tree) - self.usual_rows) / 4
        if self.drafting is not None:
            self.drafting.learn(outcome)

    def finish(self, reason: FinishReason) -> str:
        """End the text, unless it has ended; returns the text that was held back until now."""
        if self.finished:
            return ""
        self.finish_reason = reason
        return self._stream.finish()

    def fail(self, error: Exception) -> None:
        """End the text because of ``error``."""
        self.finish_reason, self.error = "error", error


def _checked_prompt(prompt: Sequence[int], target: TargetModel) -> list[int]:
    try:
        if isinstance(prompt, bytes):
            raise TypeError("bytes are no text; decode them")
        prompt = list(map(operator.index, prompt))
    except TypeError as cause:
        raise OptionError(f"the prompt is neither text nor a sequence of token ids ({cause}); give either") from cause
    if not prompt:
        raise OptionError("the prompt is empty; give at least one token")
    for token in prompt:
        if not 0 <= token < target.vocab_size:
            raise OptionError(
                f"token id {token} is outside the vocabulary of {target.vocab_size}; tokenize with this target's"
                " tokenizer"
            )
    if len(prompt) >= target.max_length:
        raise too_long(str(len(prompt)), target)
    return prompt


def too_long(tokens: str, target: TargetModel) -> CapacityError:
    """The error for a prompt of so many tokens, in words."""
    return CapacityError(
        f"the prompt has {tokens} tokens and target {target.name} holds {target.max_length} in all;"
        " shorten it or build the bundle with a larger --max-length"
    )
