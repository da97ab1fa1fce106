"""A static tree is the paths that a target accepted most often, parents before children."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tree.shape import TreeShape
from runtime.tree.static import StaticTreeBuilder, most_frequent

PATHS = st.lists(st.lists(st.integers(0, 2), max_size=3).map(tuple), min_size=1, max_size=8)


@given(PATHS, st.integers(2, 6))
def test_no_tree_of_as_many_nodes_accepts_more(paths: list[tuple[int, ...]], nodes: int) -> None:
    shape = TreeShape(depth=3, top_k=9, nodes=nodes)
    chosen = most_frequent(paths, shape)
    prefixes = {path[:length] for path in paths for length in range(1, len(path) + 1)}

    def accepted(tree: set[tuple[int, ...]]) -> int:
        return sum(sum(path[:length] in tree for length in range(1, len(path) + 1)) for path in paths)

    trees = chain.from_iterable(combinations(prefixes, size) for size in range(nodes))
    closed = [set(tree) for tree in trees if all(path[:-1] in tree or len(path) == 1 for path in tree)]
    assert accepted(set(chosen)) == max(map(accepted, closed))


@given(PATHS)
def test_a_parent_is_at_least_as_frequent_as_its_children(paths: list[tuple[int, ...]]) -> None:
    chosen = most_frequent(paths, TreeShape(depth=3, top_k=3, nodes=20))
    for path, frequency in chosen.items():
        assert 0 < frequency <= chosen.get(path[:-1], 1.0)


def test_the_tree_holds_the_paths_whatever_the_draft_says_of_them() -> None:
    builder = StaticTreeBuilder(7, TreeShape(depth=1, top_k=3, nodes=4), {(0,): 0.6, (2,): 0.2, (0, 1): 0.1})
    builder.expand([[10, 11, 12]], [[-5.0, -0.1, -9.0]])
    assert builder.frontier_tokens == [10, 12]
    builder.expand([[20, 21, 22], [30, 31, 32]], [[-1.0, -1.0, -1.0]] * 2)
    tree = builder.finish()
    assert tree.tokens.tolist() == [7, 10, 12, 21]
    assert tree.parents.tolist() == [-1, 0, 0, 1]
    assert tree.ranks == [-1, 0, 2, 1]


def test_forced_tokens_are_no_part_of_a_path() -> None:
    builder = StaticTreeBuilder(7, TreeShape(depth=1, top_k=1, nodes=9), {(0,): 0.6, (0, 0): 0.1})
    builder.force(8)
    builder.expand([[10, 11]], [[-5.0, -0.1]])
    builder.force(9)
    builder.expand([[20, 21]], [[-1.0, -1.0]])
    assert builder.finish().tokens.tolist() == [7, 8, 10, 9, 20]


def test_a_candidate_of_probability_zero_is_no_node() -> None:
    builder = StaticTreeBuilder(7, TreeShape(depth=0, top_k=2, nodes=3), {(0,): 0.6, (1,): 0.3})
    builder.expand([[10, 11]], [[-1.0, float("-inf")]])
    assert builder.finish().tokens.tolist() == [7, 10]


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_level_has_no_more_nodes_than_it_expands(top_k: int) -> None:
    chosen = most_frequent([(0, 0), (1, 0), (2, 0), (0, 1)], TreeShape(depth=2, top_k=top_k, nodes=20))
    for depth in (1, 2):
        assert sum(len(path) == depth for path in chosen) <= top_k
