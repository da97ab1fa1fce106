"""Constraints as rules, by llguidance: of each next token, whether the text can still match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np

from runtime.sampling.constraint import Constraint
from runtime.sampling.rules import Rule
from s2d_trt.errors import OptionError

if TYPE_CHECKING:
    from llguidance import LLMatcher

KEPT = 32
"""Compiled constraints that are kept for later texts."""
LONGEST_REASON = 300
WORDS = ["[a-z]{1,4}", "[a-z]{1,8}"]
"""Sets of tokens that masks take or leave as a whole, beside llguidance's own sets for JSON strings: most tokens of a
vocabulary are such words. Without them a mask of a name of bounded length takes ten times as long."""
FEW = 1 / 64
"""Where no more words of 32 bits than this share of a mask's bytes allow any token, only their tokens are looked at."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_MASKS = np.where(_BITS, np.float32(0), np.float32(-np.inf))
"""For each byte of llguidance's bit masks, what to add to the scores of its eight tokens, float32 ``[256, 8]``."""
_FAILED = "the constraint cannot be followed any further: "


class Grammars:
    """The constraints of one target's texts, compiled for its tokenizer."""

    def __init__(self, tokenizer_path: Path, vocab_size: int, eos_tokens: Sequence[int]) -> None:
        """Read the tokenizer. Raises OptionError where llguidance is not installed, or cannot read it."""
        try:
            import llguidance
        except ImportError as cause:
            raise OptionError(
                "constraints need llguidance, which is not installed; run pip install -e '.[grammar]' in the checkout"
            ) from cause
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_path.read_text(encoding="utf-8"),
                n_vocab=vocab_size,
                eos_token=[*eos_tokens] or None,
                slices=[*WORDS, *llguidance.LLTokenizer.general_slices()],
            )
        except Exception as cause:  # of the library's own tokenizer
            raise OptionError(f"llguidance cannot read {tokenizer_path} ({cause}); leave the constraint out") from cause
        self._matcher = llguidance.LLMatcher
        self._compiled = lru_cache(KEPT)(self._compile)

    def rule(self, constraint: Constraint) -> GrammarRule:
        """The rule at the beginning of a text. Raises OptionError where no text can match."""
        walk = _Walk(self._compiled(constraint))
        return GrammarRule(walk, walk.root)

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


class _State:
    """A place in a text: the tokens from the beginning to it. What is found there serves draft and target."""

    __slots__ = ("__weakref__", "_parent", "bits", "children", "depth", "ended", "error", "forced", "token")

    def __init__(self, parent: _State | None = None, token: int = -1) -> None:
        # Weak, so that paths that were not taken go at once.
        self._parent, self.token = ref(parent or self), token
        self.depth: int = parent.depth + 1 if parent else 0
        self.children: dict[int, _State] = {}
        self.bits: np.ndarray | None = None
        """llguidance's mask, uint8: a bit for each token that may follow."""
        self.forced: list[int] | None = None
        """What follows of necessity; its first token is then the only one that may follow."""
        self.ended: bool | None = None
        """None where the matcher has not been yet."""
        self.error = ""

    @property
    def parent(self) -> _State:
        """The state before the last token; there is none behind the end of the text."""
        parent = self._parent()
        assert parent is not None
        return parent

    def after(self, token: int) -> _State:
        """The state behind ``token``; an end is its own."""
        if self.ended:
            return self
        return self.children.get(token) or self.children.setdefault(token, _State(self, token))


class _Walk:
    """One matcher that goes from state to state of one text: back by rollback, which takes the same time however long
    the text is, unlike a copy of the matcher.
    """

    def __init__(self, compiled: LLMatcher) -> None:
        self._compiled, self.matcher = compiled, compiled.deep_copy()
        self._tokens: list[int] = []
        self._root = self._at = _State()

    @property
    def root(self) -> _State:
        """Where the text is."""
        return self._root

    def go(self, state: _State) -> LLMatcher:
        """The matcher at ``state``, whose ``ended`` is known then. Raises OptionError where it cannot get there."""
        back, tokens, here, there = 0, list[int](), self._at, state
        while here is not there:
            if here.depth >= there.depth:
                here, back = here.parent, back + 1
            else:
                tokens.append(there.token)
                there = there.parent
        if not state.error:
            if back:
                self.matcher.rollback(back)
            if tokens:
                self.matcher.consume_tokens(tokens[::-1])
            self._at, state.ended = state, self.matcher.is_stopped()
            if reason := self._failure():
                state.error, state.ended = reason, True
        if state.error:
            raise OptionError(_FAILED + state.error)
        return self.matcher

    def allows(self, state: _State, token: int) -> bool:
        """Whether ``token`` may follow ``state``; the matcher is behind it then. Raises OptionError."""
        if state.bits is not None:
            return bool(state.bits[token >> 3] >> (token & 7) & 1)
        if forced := self.forced(state):
            return token == forced[0]
        if self.go(state).try_consume_tokens([token]) != 1:
            self._failure()
            return False
        self._at = state.after(token)
        self._at.ended = self.matcher.is_stopped()
        return True

    def bits(self, state: _State) -> np.ndarray:
        """Which tokens may follow ``state``. Raises OptionError where the library's limits end the matching."""
        if state.bits is None:
            bits = np.frombuffer(self.go(state).compute_bitmask(), np.uint8)
            if reason := self._failure():
                raise OptionError(_FAILED + reason)
            state.bits = bits
        return state.bits

    def forced(self, state: _State) -> list[int]:
        """What follows ``state`` of necessity. Raises OptionError where the matcher cannot get there."""
        if state.forced is None:
            state.forced = self.go(state).compute_ff_tokens()
        return state.forced

    def _failure(self) -> str:
        """Why the matcher failed, if it did. It does not recover, so another one begins again at the root."""
        if not self.matcher.is_error():
            return ""
        reason = _reason(self.matcher)
        self.matcher, self._at = self._compiled.deep_copy(), self._root
        self.matcher.consume_tokens(self._tokens)
        return reason

    def commit(self, state: _State) -> None:
        """The text goes on at ``state``, a child of the root; other paths are forgotten. Raises OptionError."""
        here = self._at
        while here.depth > state.depth:
            here = here.parent
        if here is state:  # the matcher is there, or came by without an end
            state.ended = bool(state.ended)
        else:
            self.go(state)
        if state is not self._root:
            self._tokens.append(state.token)
            self._root = state


class GrammarRule(Rule):
    """Only tokens after which the text can still match; ``ended`` once nothing can follow. Forks share what they find;
    where one fails, only its path ends.
    """

    bans = True

    def __init__(self, walk: _Walk, state: _State, forked: bool = False) -> None:
        self._walk, self._state, self._forked = walk, state, forked

    @property
    def ended(self) -> bool:
        """Whether the text matches and no token can follow."""
        if self._state.ended is None:
            with suppress(OptionError):  # the state has ended then
                self._walk.go(self._state)
        return bool(self._state.ended)

    def allows(self, token: int) -> bool:
        """Whether the text can still match behind ``token``. Raises OptionError as ``apply``."""
        return self._walk.allows(self._state, token)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Ban the other tokens. Raises OptionError where the library's limits end the matching."""
        try:
            few = self.few()
        except OptionError:
            if not self._forked:
                raise
            few = np.zeros(0, np.int64)
        if few is None:
            masked = _MASKS.take(self._walk.bits(self._state), axis=0, mode="clip").reshape(-1)[: len(scores)]
            masked += scores
        else:
            masked = np.full_like(scores, -np.inf)
            masked[few] = scores[few]
        return masked

    def few(self) -> np.ndarray | None:
        """As ``Rule.few``. Raises OptionError as ``apply``."""
        if forced := self.forced():
            return np.array(forced[:1])
        bits = self._walk.bits(self._state)
        some = np.flatnonzero(bits.view(np.uint32))
        if len(some) > FEW * len(bits):
            return None
        word, bit = np.unpackbits(bits.reshape(-1, 4)[some], axis=1, bitorder="little").nonzero()
        return 32 * some[word] + bit

    def follow(self, token: int) -> None:
        """Go on behind ``token``. Raises OptionError where the library's limits end the matching."""
        state = self._state.after(token)
        if not self._forked:
            self._walk.commit(state)
        self._state = state

    def fork(self) -> GrammarRule:
        """A rule for another path."""
        return GrammarRule(self._walk, self._state, forked=True)

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may follow."""
        return 0 if self.ended else self._walk.go(self._state).validate_tokens([*tokens])

    def forced(self) -> list[int]:
        """What the grammar leaves no choice about, in the tokens that the tokenizer writes it with."""
        return [] if self.ended else self._walk.forced(self._state)


def _reason(matcher: LLMatcher) -> str:
    """The library's reason in one line, without its state."""
    return " ".join(matcher.get_error().split("<state>")[0].split())[:LONGEST_REASON]
