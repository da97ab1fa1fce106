"""What a request asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.drafting.options import Policy
from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError
from s2d_trt.fields import check_fields


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one text.

    ``policy`` decides only the speed. With ``draft`` False the target decodes without any drafting. ``exact`` asks for
    text and scores that are bit-identical to the target's own, which only chains allow; None means exact wherever this
    machine allows it and no tree is asked for.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    draft: bool = True
    exact: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_new_tokens < 1:
            raise OptionError(f"max-new-tokens {self.max_new_tokens} must be at least 1")
        if any(not stop for stop in self.stop):
            raise OptionError("a stop string is empty; leave it out or give at least one character")
        if self.exact and not self.allows_exact:
            raise OptionError("--exact drafts chains: use it with --tree-top-k 1")

    @property
    def allows_exact(self) -> bool:
        """Whether no tree with branches is asked for."""
        return not self.draft or self.policy.largest_tree(chain=True).is_chain
