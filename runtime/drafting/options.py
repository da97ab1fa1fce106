"""How a text is drafted: the policy, the limits of the tree, and whether n-gram lookup helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.policy import Confidence, DraftingPolicy
from runtime.tree.shape import PAPER_TREE, TreeShape
from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Policy:
    """``exit`` decides which exit answers and how much is drafted; any ``DraftingPolicy`` will do.

    ``tree`` limits what is drafted, ``lookup`` says whether n-gram lookup adds to it; None leaves either to ``exit``.
    """

    exit: DraftingPolicy = field(default_factory=Adaptive)
    tree: TreeShape | None = None
    lookup: bool | None = None

    @property
    def looks_up(self) -> bool:
        """Whether continuations are copied from the text itself."""
        return self.exit.looks_up if self.lookup is None else self.lookup

    def largest_tree(self, chain: bool = False) -> TreeShape:
        """The limits of the tree; those of a chain where ``chain`` and none are given."""
        return self.tree or self.exit.largest_tree(chain)


def choose_policy(
    name: Literal["adaptive", "fixed"] | None = None,
    thresholds: Sequence[float] | None = None,
    confidence: Confidence | None = None,
    tree: Literal["chain", "paper"] | None = None,
    sizes: Mapping[str, int | None] | None = None,
    lookup: bool | None = None,
    chain: bool = True,
) -> Policy:
    """The policy that a user's choices stand for; None leaves a choice open.

    Adaptive, or fixed where thresholds, a confidence or a tree is given. ``sizes`` are fields of ``TreeShape`` that
    differ from the ``tree``, or from the policy's own, which is a chain where ``chain``.

    Raises:
        OptionError: the choices contradict each other, or a size is out of range.
    """
    given = {size: value for size, value in (sizes or {}).items() if value is not None}
    exits = thresholds is not None or confidence is not None
    if name == "adaptive" and exits:
        raise OptionError("thresholds and confidence belong to the policy fixed; leave them out")
    adaptive = name == "adaptive" or (name is None and not (exits or tree or given))
    fixed = FixedThresholds(None if thresholds is None else tuple(thresholds), confidence or "mean")
    chosen: DraftingPolicy = Adaptive() if adaptive else fixed
    shape = {"paper": PAPER_TREE, "chain": TreeShape()}[tree] if tree else None
    if shape is None and given:
        shape = chosen.largest_tree(chain)
    return Policy(chosen, replace(shape, **given) if shape else None, lookup)
