"""The options that decide the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target chooses tokens. Draft, thresholds and tree have no part in it. ``docs/rules.md`` gives the order.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 keep every token; the filters act on
    ``softmax(processed / temperature)`` in that order. ``repetition_penalty`` is CTRL's (arXiv 1909.05858): a positive
    logit of a token that is already in the text is divided by it, a negative one multiplied. ``seed`` None draws one.

    ``frequency_penalty`` is subtracted from a token's logit once for each time that it is among the new tokens,
    ``presence_penalty`` once if it is among them at all (OpenAI's meaning; both from -2 to 2). ``logit_bias`` is added
    to the logits of its token ids (-100 to 100). ``bad_words`` never appear: each is a sequence of token ids,
    or a text, which stands for its tokens at the beginning of a line and after a space.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    bad_words: tuple[str | tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        # Copies, so that nobody changes them afterwards.
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        words = tuple(word if isinstance(word, str) else tuple(word) for word in self.bad_words)
        object.__setattr__(self, "bad_words", words)
        if not 0.0 <= self.temperature <= 100.0:
            raise OptionError(f"temperature {self.temperature} must lie between 0 (greedy) and 100")
        if not 0 <= self.top_k < 2**31:
            raise OptionError(f"top-k {self.top_k} must lie between 0 (off) and 2^31 - 1")
        if not 0.0 < self.top_p <= 1.0:
            raise OptionError(f"top-p {self.top_p} must be above 0 and at most 1 (off)")
        if not 0.0 <= self.min_p < 1.0:
            raise OptionError(f"min-p {self.min_p} must be at least 0 (off) and below 1")
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise OptionError(f"repetition penalty {self.repetition_penalty} must be above 0 (1 is off)")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise OptionError(f"seed {self.seed} must be a whole number from 0 to 2^64 - 1")
        for name in ("frequency_penalty", "presence_penalty"):
            if not -2.0 <= (penalty := getattr(self, name)) <= 2.0:
                raise OptionError(f"{name.replace('_', ' ')} {penalty} must lie between -2 and 2 (0 is off)")
        for token, bias in self.logit_bias.items():
            if not -100.0 <= bias <= 100.0:
                raise OptionError(f"the logit bias {bias} of token {token} must lie between -100 and 100")
        if not all(self.bad_words):
            raise OptionError("a bad word is empty; leave it out or give at least one character or token")

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p drops any token."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def in_use(self) -> list[str]:
        """The options that change what a target chooses by itself, by name."""
        return [name for name in _CHOOSING if getattr(self, name) != _CHOOSING[name]]


_CHOOSING = {
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "bad_words": (),
}
"""Options that need the target's scores, and the values that change nothing. The filters do nothing when greedy."""
