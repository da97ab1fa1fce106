"""What a request asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from runtime.drafting.options import Policy
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from runtime.sampling.rules import Processor
from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one text.

    ``policy`` decides only the speed. With ``draft`` False the target decodes without any drafting. ``exact`` asks for
    text and scores that are bit-identical to the target's own, which only chains allow; None means exact wherever this
    machine allows it and no tree is asked for.

    A text ends with the target's end-of-text tokens, unless ``ignore_eos``, with one of ``stop_token_ids``, and before
    one of the ``stop`` strings; none of these comes before there are ``min_tokens`` new tokens. ``processors`` change
    the scores of every token: functions of the tokens so far, prompt included, and the scores float32 ``[V]``, which
    return scores. They must be pure: equal arguments give equal scores, and neither argument is changed for others
    (the scores may be written to); otherwise the text depends on the draft.

    Under a ``constraint`` the new text matches it if the text ends with finish reason ``stop``, and can still match it
    otherwise; the end-of-text token comes only where it matches. Where nothing can follow the text ends, whatever
    ``min_tokens``.

    ``logprobs`` asks for the log-probability of each new token and of so many best tokens beside it,
    ``prompt_logprobs`` for the same of the prompt. They are of the target's ``raw`` scores; with ``logprobs_mode``
    ``processed``, those of new tokens are of the distribution that tokens are chosen from: after penalties, bias,
    processors, bans, temperature and filters.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    draft: bool = True
    exact: bool | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprobs_mode: Literal["raw", "processed"] = "raw"
    processors: tuple[Processor, ...] = ()
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_new_tokens < 1:
            raise OptionError(f"max-new-tokens {self.max_new_tokens} must be at least 1")
        if any(not stop for stop in self.stop):
            raise OptionError("a stop string is empty; leave it out or give at least one character")
        if not 0 <= self.min_tokens <= self.max_new_tokens:
            raise OptionError(
                f"min-tokens {self.min_tokens} must lie between 0 and max-new-tokens {self.max_new_tokens}"
            )
        for name in ("logprobs", "prompt_logprobs"):
            if (asked := getattr(self, name)) is not None and asked < 0:
                raise OptionError(f"{name.replace('_', '-')} {asked} must be 0 (the token's own only) or more")
        if self.logprobs_mode not in ("raw", "processed"):
            raise OptionError(f"logprobs-mode {self.logprobs_mode} must be raw or processed")
        if self.exact and not self.allows_exact:
            raise OptionError("--exact drafts chains: use it with --tree-top-k 1")

    @property
    def allows_exact(self) -> bool:
        """Whether no tree with branches is asked for."""
        return not self.draft or self.policy.largest_tree(chain=True).is_chain

    def check_token_ids(self, vocab_size: int) -> None:
        """Raise OptionError where an option names a token outside the vocabulary."""
        sampling = self.sampling
        sources = {
            "logit bias": [*sampling.logit_bias],
            "stop token id": self.stop_token_ids,
            "bad word": [token for word in sampling.bad_words if not isinstance(word, str) for token in word],
        }
        for name, tokens in sources.items():
            for token in tokens:
                if not 0 <= token < vocab_size:
                    raise OptionError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")

    @property
    def needing_scores(self) -> list[str]:
        """The options in use that need the target's scores, by name; a target may give only its greedy choices."""
        own = {
            "min_tokens": self.min_tokens > 0,
            "logprobs": self.logprobs is not None,
            "prompt_logprobs": self.prompt_logprobs is not None,
            "processors": bool(self.processors),
            "constraint": self.constraint is not None,
        }
        return [*self.sampling.in_use, *(name for name, used in own.items() if used)]
