"""The draft tree: grown level by level, cut to its best nodes, parents first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import PAPER_TREE, TreeShape
from runtime.tree.tree import Tree
from s2d_trt.errors import OptionError

SHAPES = st.builds(TreeShape, depth=st.integers(0, 4), top_k=st.integers(1, 4), nodes=st.integers(2, 30))
SEEDS = st.integers(0, 2**32 - 1)
CANDIDATES, VOCAB = 5, 40


@dataclass(frozen=True)
class Node:
    """A node of the reference: its tokens from the root on, and its score."""

    path: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Grown:
    """A tree beside everything that went into it."""

    shape: TreeShape
    tree: Tree
    created: list[Node]
    banned: set[tuple[int, ...]]


def candidates(seed: int, paths: list[tuple[int, ...]], banned_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each frontier node, best first: distinct tokens, coarse scores (so that some tie)."""
    tokens, logprobs = [], []
    for path in paths:
        rng = np.random.default_rng([seed, *path])
        tokens.append(rng.choice(VOCAB, CANDIDATES, replace=False))
        scores = -rng.integers(1, 12, CANDIDATES) / 4
        scores[rng.random(CANDIDATES) < banned_share] = -np.inf
        scores[0] = -0.25
        logprobs.append(np.sort(scores)[::-1])
    return np.array(tokens), np.array(logprobs, np.float32)


def grow(shape: TreeShape, seed: int, banned_share: float = 0.2) -> Grown:
    builder = TreeBuilder(7, shape)
    frontier, created, banned = [Node((7,), 0.0)], [Node((7,), 0.0)], set()
    for _ in range(shape.depth + 1):
        tokens, logprobs = candidates(seed, [node.path for node in frontier], banned_share)
        builder.expand(tokens.tolist(), logprobs.tolist())
        level, parents = [], []
        for index, node in enumerate(frontier):
            for token, logprob in zip(tokens[index], logprobs[index], strict=True):
                child = Node((*node.path, int(token)), node.score + float(logprob))
                if logprob == -np.inf:
                    banned.add(child.path)
                elif token in tokens[index, : shape.top_k]:
                    level.append(child)
                    parents.append(index)
        # The specification of the next frontier: the top_k best of this level, of equal ones the older.
        order = sorted(range(len(level)), key=lambda i: (-level[i].score, i))[: shape.top_k]
        created += level
        frontier = [level[i] for i in order]
        assert builder.frontier_tokens == [node.path[-1] for node in frontier]
        assert builder.frontier_logprobs == pytest.approx([node.score for node in frontier])
        assert builder.frontier_parents == [parents[i] for i in order]
    return Grown(shape, builder.finish(), created, banned)


def path_of(tree: Tree, node: int) -> tuple[int, ...]:
    path: tuple[int, ...] = ()
    while node >= 0:
        path = (int(tree.tokens[node]), *path)
        node = int(tree.parents[node])
    return path


def paths_of(tree: Tree) -> list[tuple[int, ...]]:
    return [path_of(tree, node) for node in range(len(tree))]


@given(SHAPES, SEEDS)
def test_the_frontier_is_the_top_k_of_its_level_and_knows_its_parents(shape: TreeShape, seed: int) -> None:
    grow(shape, seed)  # asserted at every level


@given(SHAPES, SEEDS)
def test_parents_come_before_their_children(shape: TreeShape, seed: int) -> None:
    tree = grow(shape, seed).tree
    assert tree.parents[0] == -1
    assert (tree.parents[1:] >= 0).all()
    assert (tree.parents < np.arange(len(tree))).all()


@given(SHAPES, SEEDS)
def test_depths_and_scores_are_those_of_the_paths(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed)
    scores = {node.path: node.score for node in grown.created}
    for node, path in enumerate(paths_of(grown.tree)):
        assert grown.tree.depths[node] == len(path) - 1
        assert grown.tree.logprobs[node] == pytest.approx(scores[path])


@given(SHAPES, SEEDS)
def test_the_kept_set_is_the_best_nodes_and_closed_under_ancestors(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed)
    kept = set(paths_of(grown.tree))
    assert len(kept) == len(grown.tree) == min(shape.nodes, len(grown.created))
    assert all(path[:-1] in kept for path in kept if len(path) > 1)
    left_out = [node.score for node in grown.created if node.path not in kept]
    assert not left_out or max(left_out) <= grown.tree.logprobs.min()


@given(SHAPES, SEEDS)
def test_candidates_of_probability_zero_never_appear(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed, banned_share=0.6)
    assert not set(paths_of(grown.tree)) & grown.banned


@given(SHAPES, SEEDS)
def test_a_tree_never_exceeds_the_rows_its_shape_announces(shape: TreeShape, seed: int) -> None:
    tree = grow(shape, seed, banned_share=0.0).tree
    assert len(tree) <= shape.verify_rows <= shape.nodes


@given(SHAPES, SEEDS)
def test_the_mask_is_the_ancestor_relation(shape: TreeShape, seed: int) -> None:
    tree = grow(shape, seed).tree
    paths = paths_of(tree)
    expected = [[above == path[: len(above)] for above in paths] for path in paths]
    assert tree.ancestor_mask().tolist() == expected


@given(SHAPES, SEEDS)
def test_a_child_is_found_by_its_token(shape: TreeShape, seed: int) -> None:
    tree = grow(shape, seed).tree
    children = tree.children()
    assert len(children) == len(tree)
    for node in range(1, len(tree)):
        assert children[int(tree.parents[node]), int(tree.tokens[node])] == node


def test_a_token_that_is_no_child_is_not_found() -> None:
    tree = Tree(np.array([1, 2, 3]), np.array([-1, 0, 1]), np.array([0, 1, 2]), np.zeros(3))
    assert (0, 3) not in tree.children()
    assert (2, 2) not in tree.children()


@given(depth=st.integers(0, 5), seed=SEEDS)
def test_top_k_1_is_a_chain_of_depth_plus_1_drafted_tokens(depth: int, seed: int) -> None:
    tree = grow(TreeShape(depth, top_k=1), seed).tree
    assert tree.is_chain
    assert len(tree) == depth + 2
    assert np.array_equal(tree.ancestor_mask(), np.tri(depth + 2, dtype=bool))


GUESSES = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8)


def grafted(shape: TreeShape, seed: int, tokens: list[int], each: float) -> tuple[TreeBuilder, Tree]:
    """A grown tree of any shape, and the same with a chain merged into it."""
    builder = TreeBuilder(7, shape)
    for depth in range(shape.depth + 1):
        paths = [(depth, node) for node in range(len(builder.frontier_tokens))]
        found, logprobs = candidates(seed, paths, 0.2)
        builder.expand(found.tolist(), logprobs.tolist())
    before = builder.finish()
    builder.graft(tokens, [each * (index + 1) for index in range(len(tokens))])
    return builder, before


@given(SHAPES, SEEDS, GUESSES, st.floats(-2.0, -0.01))
def test_a_grafted_tree_is_a_tree_whose_nodes_never_outrank_their_parents(
    shape: TreeShape, seed: int, tokens: list[int], each: float
) -> None:
    tree = grafted(shape, seed, tokens, each)[0].finish()
    assert (tree.parents < np.arange(len(tree))).all()
    assert len(tree.children()) == len(tree)  # no two children of a node carry the same token
    assert (tree.depths[1:] == tree.depths[tree.parents[1:]] + 1).all()
    assert (tree.logprobs[1:] <= tree.logprobs[tree.parents[1:]] + 1e-9).all()
    assert len(tree) <= shape.verify_rows
    assert shape.top_k > 1 or tree.is_chain


@given(SEEDS, GUESSES)
def test_a_likely_graft_is_kept_whole_and_shares_its_nodes_with_the_draft(seed: int, tokens: list[int]) -> None:
    shape = TreeShape(depth=2, top_k=3, nodes=40)
    builder, before = grafted(shape, seed, tokens, -1e-3)
    tree = builder.finish()
    node = 0
    for token in tokens:
        node = tree.children()[node, token]
    assert tree.logprobs[node] == pytest.approx(-1e-3 * len(tokens))
    # What the draft gave a node stays known, raised or not; what it never proposed has nothing.
    given_before = dict(zip(paths_of(before), before.drafted.tolist(), strict=True))
    for path, drafted in zip(paths_of(tree), tree.drafted.tolist(), strict=True):
        assert drafted == given_before[path] or np.isnan(drafted) if path in given_before else np.isnan(drafted)


def test_an_unlikely_graft_raises_nothing() -> None:
    shape = TreeShape(depth=1, top_k=2, nodes=30)
    builder, before = grafted(shape, 3, [VOCAB], -50.0)
    after = builder.finish()
    scores = dict(zip(paths_of(after), after.logprobs.tolist(), strict=True))
    for path, score in zip(paths_of(before), before.logprobs.tolist(), strict=True):
        assert scores.get(path, score) == score


def test_a_raised_node_raises_what_hangs_below_it() -> None:
    builder = TreeBuilder(0, TreeShape(depth=1, top_k=2, nodes=10))
    builder.expand([[1, 2]], [[-1.0, -2.0]])
    builder.expand([[3, 4], [5, 6]], [[-0.5, -3.0], [-0.5, -3.0]])
    builder.graft([2], [-0.25])
    tree = builder.finish()
    found = dict(zip(paths_of(tree), tree.logprobs.tolist(), strict=True))
    assert found[0, 2] == pytest.approx(-0.25)
    assert found[0, 2, 5] == pytest.approx(-0.75)
    assert found[0, 1, 3] == pytest.approx(-1.5)


def test_a_branching_tree_is_no_chain() -> None:
    assert not Tree(np.array([1, 2, 3]), np.array([-1, 0, 0]), np.array([0, 1, 1]), np.zeros(3)).is_chain


def test_a_root_alone_drafts_nothing() -> None:
    tree = Tree.root_only(9)
    assert (len(tree), tree.tokens.tolist(), tree.parents.tolist()) == (1, [9], [-1])
    assert tree.is_chain
    assert (0, 9) not in tree.children()


def test_on_equal_scores_a_parent_is_kept_before_its_child() -> None:
    builder = TreeBuilder(0, TreeShape(depth=2, top_k=1, nodes=3))
    for token in (1, 2, 3):
        builder.expand([[token]], [[0.0]])
    assert builder.finish().tokens.tolist() == [0, 1, 2]


def test_the_papers_tree_has_depth_4_top_k_10_and_60_nodes() -> None:
    assert (PAPER_TREE.depth, PAPER_TREE.top_k, PAPER_TREE.nodes) == (4, 10, 60)
    assert (PAPER_TREE.draft_rows, PAPER_TREE.verify_rows) == (40, 60)


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"top_k": 0}, {"nodes": 1}])
def test_a_shape_that_cannot_draft_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        TreeShape(**wrong)


@given(seed=st.integers(0, 500), size=st.integers(1, 20))
def test_the_best_path_is_the_chain_of_most_probability(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    parents = np.array([-1, *(int(rng.integers(0, node)) for node in range(1, size))])
    logprobs, depths = np.zeros(size), np.zeros(size, np.int64)
    for node in range(1, size):
        logprobs[node] = logprobs[parents[node]] - rng.exponential()
        depths[node] = depths[parents[node]] + 1
    tree = Tree(np.arange(size) + 100, parents, depths, logprobs)
    path = tree.best_path()
    assert path.is_chain
    assert path.tokens[0] == 100

    def promise(node: int) -> float:
        return 0.0 if node == 0 else float(np.exp(logprobs[node])) + promise(int(parents[node]))

    assert np.exp(path.logprobs[1:]).sum() == pytest.approx(max(map(promise, range(size))))
    for before, after in zip(path.tokens[:-1] - 100, path.tokens[1:] - 100, strict=True):
        assert parents[after] == before
