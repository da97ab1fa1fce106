"""How a text is drafted: the policy, the limits of the tree, and whether n-gram lookup helps."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.policy import DraftingPolicy
from runtime.tree.shape import TreeShape


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
