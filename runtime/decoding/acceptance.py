"""Verification: walk the tree along the target's own choices."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends import Logits
from runtime.decoding.sampling import Chooser
from runtime.drafting.tree import Tree


@dataclass(frozen=True, slots=True)
class Acceptance:
    """``path`` lists the accepted nodes from the root on; ``token`` is the target's choice after the last."""

    path: list[int]
    token: int


def accept(tree: Tree, logits: Logits, chooser: Chooser, root_position: int) -> Acceptance:
    """Follow the target from the root while its choice is a child in the tree.

    ``logits`` are the target's at every node, ``root_position`` is the root's place in the text.
    The tokens that come out are those the target alone would have chosen with the same seed.
    """
    path, children = [0], tree.children()
    while True:
        node = path[-1]
        token = chooser.choose(logits[node], root_position + len(path))
        chooser.see((token,))
        child = children.get((node, token))
        if child is None:
            return Acceptance(path, token)
        path.append(child)
