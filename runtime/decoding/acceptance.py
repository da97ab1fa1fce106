"""Acceptance: walk the tree along the target's own choices."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends import Logits
from runtime.sampling.chooser import Chooser
from runtime.tree.tree import Tree


@dataclass(frozen=True, slots=True)
class Acceptance:
    """``path`` lists the accepted nodes from the root on. ``tokens`` are what the text gains: the path's tokens below
    the root, then the target's own choice after them.
    """

    path: list[int]
    tokens: list[int]


def accept(tree: Tree, logits: Logits, chooser: Chooser, root_position: int) -> Acceptance:
    """Follow the target from the root while its choice is a child in the tree.

    ``logits`` are the target's at every node, ``root_position`` is the root's position in the text. The tokens are
    those that the target would have chosen without the tree. Where no token can be chosen at a node, the tokens before
    it are kept, and the error comes when it is the root.
    """
    path, tokens, children = [0], list[int](), tree.children()
    while True:
        node = path[-1]
        try:
            token = chooser.choose(logits[node], root_position + len(path))
        except Exception:
            if not tokens:
                raise
            return Acceptance(path[:-1], tokens)
        tokens.append(token)
        child = children.get((node, token))
        if child is None or chooser.ended:
            return Acceptance(path, tokens)
        path.append(child)
