"""Constraints as rules, by llguidance: of each next token, whether the text can still match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.sampling.constraint import Constraint
from runtime.sampling.rules import Rule
from s2d_trt.errors import OptionError

if TYPE_CHECKING:
    from llguidance import LLMatcher

KEPT = 32
"""Compiled constraints that are kept for later texts."""
LONGEST_REASON = 300


class Grammars:
    """The constraints of one target's texts, compiled for its tokenizer."""

    def __init__(self, tokenizer_path: Path, vocab_size: int, eos_tokens: Sequence[int]) -> None:
        """Read the tokenizer. Raises OptionError where llguidance is not installed, or cannot read it."""
        try:
            import llguidance
        except ImportError as cause:
            raise OptionError(
                "constraints need llguidance, which is not installed; run pip install 's2d-trt[grammar]'"
            ) from cause
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_path.read_text(encoding="utf-8"), n_vocab=vocab_size, eos_token=[*eos_tokens] or None
            )
        except Exception as cause:  # of the library's own tokenizer
            raise OptionError(f"llguidance cannot read {tokenizer_path} ({cause}); leave the constraint out") from cause
        self._matcher = llguidance.LLMatcher
        self._compiled = lru_cache(KEPT)(self._compile)

    def rule(self, constraint: Constraint) -> GrammarRule:
        """The rule at the beginning of a text. Raises OptionError where no text can match."""
        return GrammarRule(self._compiled(constraint).deep_copy())

    def _compile(self, constraint: Constraint) -> LLMatcher:
        matcher = self._matcher(self._tokenizer, self._grammar(constraint), log_level=0)
        mask = None if matcher.is_error() else matcher.compute_bitmask()
        reason = _reason(matcher)
        if reason.startswith("NoExtension") or (mask is not None and not any(mask)):
            raise OptionError(f"no text matches the {constraint.title}; correct it")
        if reason:
            raise OptionError(f"the {constraint.title} cannot be used: {reason}")
        return matcher

    def _grammar(self, constraint: Constraint) -> str:
        matcher, text = self._matcher, constraint.text
        if constraint.kind == "json_schema":
            return matcher.grammar_from_json_schema(text)
        if constraint.kind == "regex":
            return matcher.grammar_from_regex(text)
        if constraint.kind == "choice":
            # A Lark string is a JSON string.
            text = "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(text))
        return matcher.grammar_from_lark(text)


class GrammarRule(Rule):
    """Only tokens after which the text can still match; ``ended`` once nothing can follow."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def ended(self) -> bool:
        """Whether the text matches and no token can follow."""
        return self._matcher.is_stopped()

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Ban the other tokens. Raises OptionError where the library's limits end the matching."""
        # A byte for each token, 0 where it is banned.
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)[: len(scores)]
        self._check()
        np.copyto(scores, np.float32(-np.inf), where=allowed == 0)
        return scores

    def follow(self, token: int) -> None:
        """Go on behind ``token``."""
        if not self.ended:
            self._matcher.consume_token(token)
            self._check()

    def fork(self) -> GrammarRule:
        """Another matcher in the same state."""
        return GrammarRule(self._matcher.deep_copy())

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may follow."""
        return self._matcher.validate_tokens([*tokens])

    def forced(self) -> list[int]:
        """Tokens that follow if the tokenizer writes what the grammar leaves no choice about."""
        return [] if self.ended else self._matcher.compute_ff_tokens()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise OptionError(f"the constraint cannot be followed any further: {_reason(self._matcher)}")


def _reason(matcher: LLMatcher) -> str:
    """The library's reason in one line, without its state."""
    return " ".join(matcher.get_error().split("<state>")[0].split())[:LONGEST_REASON]
