"""The options that decide the text."""

from __future__ import annotations

from dataclasses import dataclass

from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target chooses tokens. Draft, thresholds and tree have no part in it.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 keep every token; the filters act on
    ``softmax(processed / temperature)`` in that order. ``repetition_penalty`` is CTRL's (arXiv 1909.05858): a positive
    logit of a token that is already in the text is divided by it, a negative one multiplied. ``seed`` None draws one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
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

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p drops any token."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0
