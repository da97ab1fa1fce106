"""One text being generated: its options and all of its state."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenizers import Tokenizer

from runtime.decoding.noise import Noise
from runtime.decoding.sampling import Chooser, Sampling
from runtime.decoding.stats import Stats
from runtime.drafting.ngram import NgramDraft, NgramIndex
from runtime.drafting.policy import DraftingPolicy, Policy
from runtime.drafting.sorted_draft import DraftSequence
from runtime.drafting.tree import TreeShape
from runtime.targets.interface import TargetModel, TargetSequence
from runtime.text.tokenizer import TextStream
from s2d_trt.errors import CapacityError, OptionError

FinishReason = Literal["stop", "length", "capacity", "cancelled"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for.

    ``policy`` decides only the speed. ``draft`` False runs the target alone. ``exact`` makes the output
    bit-identical to the target alone in exact mode; it needs a chain.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    draft: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OptionError(f"max-new-tokens {self.max_new_tokens} must be at least 1")
        if any(not stop for stop in self.stop):
            raise OptionError("a stop string is empty; leave it out or give at least one character")
        if self.exact and self.tree.top_k != 1:
            raise OptionError("--exact drafts chains: use it with --tree-top-k 1")

    @property
    def tree(self) -> TreeShape:
        """The largest tree that a step may draft."""
        return self.policy.limits(self.exact)

    @property
    def exact_rows(self) -> int:
        """Most rows of a verify call where the output must be exact, else 0."""
        return self.tree.verify_rows if self.exact else 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step added: ``tokens``, of which the first ``drafted`` were the draft's.

    ``pieces`` is the text released with each token.
    """

    tokens: list[int]
    drafted: int
    pieces: list[str]

    @property
    def text(self) -> str:
        """Text released by this step."""
        return "".join(self.pieces)


class Request:
    """All state of one text; several requests can take turns over the same engines."""

    def __init__(
        self,
        prompt: Sequence[int],
        options: Options,
        target: TargetModel,
        tokenizer: Tokenizer,
        drafting: DraftingPolicy | None,
    ) -> None:
        if not prompt:
            raise OptionError("the prompt is empty; give at least one token")
        for token in prompt:
            if not 0 <= token < target.vocab_size:
                raise OptionError(
                    f"token id {token} is outside the vocabulary of {target.vocab_size}; tokenize with this target's"
                    " tokenizer"
                )
        if len(prompt) >= target.max_length:
            raise CapacityError(
                f"the prompt has {len(prompt)} tokens and target {target.name} holds {target.max_length} in all;"
                " shorten it or build the bundle with a larger --max-length"
            )
        self.prompt, self.options, self.drafting, self._target = list(prompt), options, drafting, target
        sampling = options.sampling
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self.noise = Noise(self.seed, sampling.temperature, target.vocab_size)
        self.chooser = Chooser(sampling, self.noise, target.vocab_size)
        self.chooser.see(self.prompt)
        self.stats = Stats()
        self.tokens: list[int] = []
        """New tokens so far."""
        self.finish_reason: FinishReason | None = None
        self.target_sequence: TargetSequence | None = None
        self.draft_sequence: DraftSequence | None = None
        self._lookup = NgramIndex() if options.draft and options.policy.looks_up else None
        self._looked_at = 0
        self._stream = TextStream(tokenizer, options.stop)
        self._stop_tokens = frozenset(target.tokenizer.eos_token_ids)
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

    def guess(self, most: int) -> NgramDraft | None:
        """At most ``most`` tokens that the text so far suggests; None where it does not repeat itself."""
        if self._lookup is None:
            return None
        if not self._looked_at:
            self._lookup.extend(self.prompt)
        self._lookup.extend(self.tokens[self._looked_at :])
        self._looked_at = len(self.tokens)
        return self._lookup.guess(most)

    def cancel(self) -> None:
        """End the request before its next step; what was generated stays."""
        if not self.finished:
            self._finish("cancelled")

    def append(self, tokens: Sequence[int], drafted: int) -> Step:
        """Take what a step accepted, up to the token that ends the text."""
        kept: list[int] = []
        pieces: list[str] = []
        for token in tokens:
            released = len(self.text)
            kept.append(token)
            self.tokens.append(token)
            if self._stream.push(token):
                self.finish_reason = "stop"
            elif token in self._stop_tokens:
                self._finish("stop")
            elif not self.remaining:
                self._finish("length" if len(self.tokens) == self.options.max_new_tokens else "capacity")
            pieces.append(self.text[released:])
            if self.finished:
                break
        return Step(kept, min(drafted, len(kept)), pieces)

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self._stream.finish()
