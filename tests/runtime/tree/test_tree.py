"""A draft tree as it is verified: the ancestor mask, and the child that carries a token."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.tree.tree import Tree

VOCAB = 6


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree of at most 24 nodes, in which no two children of a node carry the same token."""
    tokens, parents, depths = [0], [-1], [0]
    for _ in range(draw(st.integers(0, 23))):
        parent, token = draw(st.integers(0, len(tokens) - 1)), draw(st.integers(0, VOCAB - 1))
        if (parent, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(parent)
            depths.append(depths[parent] + 1)
    return Tree(np.array(tokens), np.array(parents), np.array(depths))


def ancestors(tree: Tree, node: int) -> set[int]:
    """The node itself and all above it."""
    above = set()
    while node >= 0:
        above.add(node)
        node = int(tree.parents[node])
    return above


@given(trees())
def test_the_mask_is_the_ancestor_relation(tree: Tree) -> None:
    expected = [[above in ancestors(tree, node) for above in range(len(tree))] for node in range(len(tree))]
    assert tree.ancestor_mask().tolist() == expected


@given(trees())
def test_a_child_is_found_by_its_parent_and_its_token(tree: Tree) -> None:
    children = tree.children()
    assert len(children) == len(tree)
    for node in range(1, len(tree)):
        assert children[int(tree.parents[node]), int(tree.tokens[node])] == node


def test_a_token_that_is_no_child_is_not_found() -> None:
    children = Tree.chain([1, 2, 3]).children()
    assert (0, 3) not in children
    assert (2, 2) not in children


@given(st.lists(st.integers(0, 99), min_size=1, max_size=100))
def test_in_a_chain_each_token_is_the_child_of_the_token_before_it(tokens: list[int]) -> None:
    size, chain = len(tokens), Tree.chain(tokens)
    assert chain.is_chain
    assert chain.tokens.tolist() == tokens
    assert chain.parents.tolist() == list(range(-1, size - 1))
    assert chain.depths.tolist() == list(range(size))
    assert np.array_equal(chain.ancestor_mask(), np.tri(size, dtype=bool))


@given(trees())
def test_a_tree_is_a_chain_where_no_node_has_a_sibling(tree: Tree) -> None:
    assert tree.is_chain == (len(set(tree.depths.tolist())) == len(tree))


def test_a_tree_of_only_a_root_has_no_child() -> None:
    root = Tree.chain([9])
    assert (len(root), root.tokens.tolist(), root.parents.tolist()) == (1, [9], [-1])
    assert root.is_chain
    assert (0, 9) not in root.children()
