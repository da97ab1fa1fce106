"""Growing a tree level by level, merging a chain into it, and cutting it to what is verified."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.tree.builder import UNRANKED, TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

ROOT, CANDIDATES, VOCAB = 7, 5, 40
SHAPES = st.builds(TreeShape, depth=st.integers(0, 4), top_k=st.integers(1, 4), nodes=st.integers(2, 30))
SEEDS = st.integers(0, 2**32 - 1)
COPIED = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8)
Path = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A node of the reference: its tokens from the root on, its cumulative log-probability, and where it comes from."""

    path: Path
    logprob: float
    draft_logprob: float = math.nan
    rank: int = UNRANKED


@dataclass(frozen=True)
class Grown:
    """A builder beside everything that it should hold."""

    shape: TreeShape
    builder: TreeBuilder
    created: list[Node]
    banned: set[Path]


def candidates(seed: int, paths: list[Path], banned_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each frontier node, best first: distinct tokens, coarse log-probabilities (so that some tie)."""
    tokens, logprobs = [], []
    for path in paths:
        rng = np.random.default_rng([seed, *path])
        tokens.append(rng.choice(VOCAB, CANDIDATES, replace=False))
        row = -rng.integers(1, 12, CANDIDATES) / 4
        row[rng.random(CANDIDATES) < banned_share] = -np.inf
        row[0] = -0.25
        logprobs.append(np.sort(row)[::-1])
    return np.array(tokens), np.array(logprobs)


def grow(shape: TreeShape, seed: int, banned_share: float = 0.2, floor: float = -math.inf) -> Grown:
    builder = TreeBuilder(ROOT, shape, floor)
    frontier, created, banned = [Node((ROOT,), 0.0)], [Node((ROOT,), 0.0)], set()
    for _ in range(shape.depth + 1):
        tokens, logprobs = candidates(seed, [node.path for node in frontier], banned_share)
        # The draft's own log-probabilities are told apart from the corrected ones.
        builder.expand(tokens.tolist(), logprobs.tolist(), (2 * logprobs).tolist())
        level, parents = [], []
        for index, node in enumerate(frontier):
            for rank in range(shape.top_k):
                token, logprob = int(tokens[index, rank]), float(logprobs[index, rank])
                child = Node((*node.path, token), node.logprob + logprob, 2 * logprob, rank)
                if child.logprob > floor:
                    level.append(child)
                    parents.append(index)
                else:
                    banned.add(child.path)
        # The specification of the next frontier: the top_k best of this level, of equal ones the older.
        order = sorted(range(len(level)), key=lambda i: (-level[i].logprob, i))[: shape.top_k]
        created += level
        frontier = [level[i] for i in order]
        assert builder.frontier_tokens == [node.path[-1] for node in frontier]
        assert builder.frontier_logprobs == [node.logprob for node in frontier]
        assert builder.frontier_parents == [parents[i] for i in order]
        if not frontier:
            break
    return Grown(shape, builder, created, banned)


def path_of(tree: Tree, node: int) -> Path:
    path: Path = ()
    while node >= 0:
        path = (int(tree.tokens[node]), *path)
        node = int(tree.parents[node])
    return path


def paths_of(tree: Tree) -> list[Path]:
    return [path_of(tree, node) for node in range(len(tree))]


def assert_tree_is_sound(tree: Tree) -> None:
    """Parents come first, are one level above, and are at least as probable; siblings carry different tokens."""
    parents = tree.parents.tolist()
    assert parents[0] == -1
    assert all(0 <= parent < node for node, parent in enumerate(parents) if node > 0)
    assert all(tree.depths[node] == tree.depths[parent] + 1 for node, parent in enumerate(parents) if node > 0)
    assert all(tree.logprobs[node] <= tree.logprobs[parent] for node, parent in enumerate(parents) if node > 0)
    assert len(tree.children()) == len(tree)


# Growing


@given(SHAPES, SEEDS)
def test_the_frontier_is_the_top_k_of_its_level_with_the_parents_of_its_nodes(shape: TreeShape, seed: int) -> None:
    grow(shape, seed)  # asserted at every level


@given(SHAPES, SEEDS)
def test_every_node_keeps_its_numbers_when_the_tree_is_cut_and_renumbered(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed)
    tree, created = grown.builder.finish(), {node.path: node for node in grown.created}
    assert_tree_is_sound(tree)
    for node, path in enumerate(paths_of(tree)):
        expected = created[path]
        assert tree.depths[node] == len(path) - 1
        assert tree.logprobs[node] == expected.logprob
        assert tree.ranks[node] == expected.rank
        assert tree.draft_logprobs[node] == pytest.approx(expected.draft_logprob, nan_ok=True)


@given(SHAPES, SEEDS)
def test_the_kept_nodes_are_the_best_ones_and_closed_under_ancestors(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed)
    tree = grown.builder.finish()
    kept = set(paths_of(tree))
    assert len(kept) == len(tree) == min(shape.nodes, len(grown.created))
    assert all(path[:-1] in kept for path in kept if len(path) > 1)
    left_out = [node.logprob for node in grown.created if node.path not in kept]
    assert not left_out or max(left_out) <= min(tree.logprobs)


@given(SHAPES, SEEDS)
def test_candidates_of_probability_zero_never_appear(shape: TreeShape, seed: int) -> None:
    grown = grow(shape, seed, banned_share=0.6)
    assert not set(paths_of(grown.builder.finish())) & grown.banned


@given(SHAPES, SEEDS, st.sampled_from([-3.0, -1.0, -0.5, -0.1]))
def test_a_candidate_becomes_a_node_only_above_the_floor(shape: TreeShape, seed: int, floor: float) -> None:
    tree = grow(shape, seed, floor=floor).builder.finish()
    assert all(logprob > floor for logprob in tree.logprobs)


@given(SHAPES, SEEDS)
def test_a_tree_never_exceeds_the_rows_that_its_shape_announces(shape: TreeShape, seed: int) -> None:
    tree = grow(shape, seed, banned_share=0.0).builder.finish()
    assert len(tree) <= shape.verify_rows() <= shape.nodes


@given(depth=st.integers(0, 5), seed=SEEDS)
def test_top_k_1_is_a_chain_of_depth_plus_1_drafted_tokens(depth: int, seed: int) -> None:
    builder = grow(TreeShape(depth, top_k=1), seed).builder
    assert builder.finish().is_chain
    assert len(builder.finish()) == depth + 2
    assert builder.finish(chain=True).tokens.tolist() == builder.finish().tokens.tolist()


def test_without_corrected_log_probabilities_the_drafts_own_count() -> None:
    builder = TreeBuilder(ROOT, TreeShape(depth=0, top_k=2))
    builder.expand([[1, 2, 3]], [[-1.0, -2.0, -3.0]])
    tree = builder.finish()
    assert tree.logprobs == [0.0, -1.0, -2.0]
    assert tree.draft_logprobs[1:] == [-1.0, -2.0]
    assert tree.ranks == [UNRANKED, 0, 1]


def test_of_equal_log_probabilities_a_parent_is_kept_before_its_child() -> None:
    builder = TreeBuilder(0, TreeShape(depth=2, top_k=1, nodes=3))
    for token in (1, 2, 3):
        builder.expand([[token]], [[0.0]])
    assert builder.finish().tokens.tolist() == [0, 1, 2]


@given(SHAPES, SEEDS, st.integers(1, 12), st.booleans())
def test_fewer_nodes_are_kept_where_size_asks_for_fewer(shape: TreeShape, seed: int, wanted: int, chain: bool) -> None:
    builder, asked = grow(shape, seed).builder, []

    def size(logprobs: list[float]) -> int:
        asked.extend(logprobs)
        return min(wanted, len(logprobs))

    whole, tree = builder.finish(chain=chain), builder.finish(size, chain)
    assert asked == sorted(whole.logprobs, reverse=True)
    assert asked[0] == 0.0
    assert sorted(tree.logprobs, reverse=True) == asked[:wanted]
    assert set(paths_of(tree)) <= set(paths_of(whole))
    assert_tree_is_sound(tree)


# Merging a copied chain


def grafted(shape: TreeShape, seed: int, tokens: list[int], each: float) -> tuple[TreeBuilder, Tree]:
    """A grown tree, and the same with a chain merged into it."""
    builder = grow(shape, seed).builder
    before = builder.finish()
    builder.graft(tokens, [each * (index + 1) for index in range(len(tokens))])
    return builder, before


@given(SHAPES, SEEDS, COPIED, st.floats(-2.0, -0.01))
def test_a_merged_tree_is_sound_and_no_larger_than_allowed(
    shape: TreeShape, seed: int, tokens: list[int], each: float
) -> None:
    tree = grafted(shape, seed, tokens, each)[0].finish()
    assert_tree_is_sound(tree)
    assert len(tree) <= shape.verify_rows(len(tokens)) <= shape.nodes


@given(SEEDS, COPIED)
def test_a_likely_copy_is_kept_whole_and_shares_its_nodes_with_the_draft(seed: int, tokens: list[int]) -> None:
    builder, before = grafted(TreeShape(depth=2, top_k=3, nodes=40), seed, tokens, -1e-3)
    tree, node = builder.finish(), 0
    for token in tokens:
        node = tree.children()[node, token]
    assert tree.logprobs[node] == -1e-3 * len(tokens)
    # What the draft gave a node stays, raised or not; what it never proposed has neither log-probability nor rank.
    drafted = dict(zip(paths_of(before), zip(before.draft_logprobs, before.ranks, strict=True), strict=True))
    for path, logprob, rank in zip(paths_of(tree), tree.draft_logprobs, tree.ranks, strict=True):
        expected, expected_rank = drafted.get(path, (math.nan, UNRANKED))
        assert logprob == pytest.approx(expected, nan_ok=True)
        assert rank == expected_rank


def test_an_unlikely_copy_raises_nothing() -> None:
    builder, before = grafted(TreeShape(depth=1, top_k=2, nodes=30), 3, [VOCAB], -50.0)
    after = builder.finish()
    logprobs = dict(zip(paths_of(after), after.logprobs, strict=True))
    assert all(logprobs[path] == logprob for path, logprob in zip(paths_of(before), before.logprobs, strict=True))


def test_a_raised_node_raises_the_nodes_below_it_by_as_much() -> None:
    builder = TreeBuilder(0, TreeShape(depth=1, top_k=2, nodes=10))
    builder.expand([[1, 2]], [[-1.0, -2.0]])
    builder.expand([[3, 4], [5, 6]], [[-0.5, -3.0], [-0.5, -3.0]])
    builder.graft([2], [-0.25])
    tree = builder.finish()
    logprobs = dict(zip(paths_of(tree), tree.logprobs, strict=True))
    assert logprobs[0, 2] == -0.25
    assert logprobs[0, 2, 5] == pytest.approx(-0.75)
    assert logprobs[0, 1, 3] == -1.5


def assert_every_cut_is_sound(builder: TreeBuilder) -> None:
    """Cut to every size, the best nodes form a tree: a child above its parent would be kept without it."""
    for count in range(1, len(builder.finish()) + 1):
        assert_tree_is_sound(builder.finish(lambda _, count=count: count))
    assert builder.finish(chain=True).is_chain


def test_a_drafted_chain_that_a_saturated_copy_raises_stays_a_tree_at_every_cut() -> None:
    # After the first token the copy is certain: adding differences to the drafted log-probabilities would round, and
    # put a node one unit in the last place below its child.
    rng = np.random.default_rng(0)
    for _ in range(1000):
        drafted, copied = int(rng.integers(1, 5)), int(rng.integers(2, 6))
        builder = TreeBuilder(ROOT, TreeShape(depth=8, top_k=1))
        for token in range(drafted):
            builder.expand([[token]], [[-rng.exponential()]])
        builder.graft(list(range(copied)), [-rng.exponential()] * copied)
        assert_every_cut_is_sound(builder)


# Denormal numbers, sums that round, and the positive log-probabilities of an inexact logarithm.
ADVERSARIAL = st.one_of(
    st.sampled_from(
        [0.0, -0.0, -5e-324, -1e-17, -1.1e-16, -0.1, -0.2, -0.3, -1 / 3, -(2.0**-53), -745.2, 1e-7, 5e-324]
    ),
    st.floats(-40.0, 0.0),
)


@settings(max_examples=200)
@given(
    level=st.lists(st.lists(ADVERSARIAL, min_size=2, max_size=2), min_size=2, max_size=2),
    first=st.lists(ADVERSARIAL, min_size=2, max_size=2),
    depth=st.integers(1, 4),
    copied=st.lists(st.tuples(st.integers(0, 3), ADVERSARIAL), max_size=6),
)
def test_no_node_outranks_its_parent_whatever_rounds(
    level: list[list[float]], first: list[float], depth: int, copied: list[tuple[int, float]]
) -> None:
    builder = TreeBuilder(ROOT, TreeShape(depth=4, top_k=2))
    builder.expand([[0, 1]], [first])
    for _ in range(depth):
        builder.expand([[0, 1], [2, 3]], level)
    logprobs = np.cumsum([logprob for _, logprob in copied]).tolist()
    builder.graft([token for token, _ in copied], logprobs)
    assert_every_cut_is_sound(builder)


# Chains


@given(SEEDS, st.integers(1, 3), st.integers(2, 9), st.one_of(st.just([]), COPIED), st.floats(-2.0, -0.01))
def test_the_best_chain_is_the_path_of_most_expected_accepted_tokens(
    seed: int, top_k: int, nodes: int, tokens: list[int], each: float
) -> None:
    builder = grow(TreeShape(3, top_k, nodes=200), seed).builder
    builder.graft(tokens, [each * (index + 1) for index in range(len(tokens))])
    tree = builder.finish()

    def expected_tokens(node: int) -> float:
        return 0.0 if node == 0 else math.exp(tree.logprobs[node]) + expected_tokens(int(tree.parents[node]))

    capped = grow(TreeShape(3, top_k, nodes=nodes), seed).builder
    capped.graft(tokens, [each * (index + 1) for index in range(len(tokens))])
    chain = capped.finish(chain=True)
    allowed = [node for node in range(len(tree)) if tree.depths[node] < nodes]
    assert chain.is_chain
    assert len(chain) <= nodes
    assert sum(map(math.exp, chain.logprobs[1:])) == pytest.approx(max(map(expected_tokens, allowed)))
    # It is a path of the tree, with the numbers of the tree's nodes.
    by_path = dict(zip(paths_of(tree), range(len(tree)), strict=True))
    for node, path in enumerate(paths_of(chain)):
        assert chain.logprobs[node] == tree.logprobs[by_path[path]]
        assert chain.ranks[node] == tree.ranks[by_path[path]]


def test_a_copied_chain_extends_the_drafted_one_that_it_agrees_with() -> None:
    builder = TreeBuilder(0, TreeShape(depth=1, top_k=1))
    builder.expand([[1]], [[-0.1]])
    builder.expand([[2]], [[-0.1]])
    builder.graft([1, 2, 3, 4], [-0.5, -0.6, -0.7, -0.8])
    chain = builder.finish(chain=True)
    assert chain.tokens.tolist() == [0, 1, 2, 3, 4]
    assert chain.ranks == [UNRANKED, 0, 0, UNRANKED, UNRANKED]


@pytest.mark.parametrize(("copied_logprob", "expected"), [(-0.1, [0, 8, 9]), (-3.0, [0, 1, 2])])
def test_of_a_drafted_and_a_copied_chain_that_disagree_the_more_promising_one_is_verified(
    copied_logprob: float, expected: list[int]
) -> None:
    builder = TreeBuilder(0, TreeShape(depth=1, top_k=1))
    builder.expand([[1]], [[-0.5]])
    builder.expand([[2]], [[-0.5]])
    builder.graft([8, 9], [copied_logprob, 2 * copied_logprob])
    assert builder.finish(chain=True).tokens.tolist() == expected


def test_a_chain_that_is_best_only_beyond_the_limit_of_nodes_is_not_taken() -> None:
    builder = TreeBuilder(0, TreeShape(depth=0, top_k=1, nodes=3))
    builder.expand([[1]], [[-0.1]])
    builder.graft([8, 9, 10, 11], [-1.0, -1.0, -1.0, -1.0])
    assert builder.finish(chain=True).tokens.tolist() == [0, 1]


# Forced tokens


def test_a_forced_token_is_a_level_of_its_own_as_likely_as_the_node_before_it() -> None:
    builder = TreeBuilder(ROOT, TreeShape(depth=3))
    builder.force(4)
    builder.expand([[5]], [[-0.5]])
    builder.force(6)
    builder.force(7)
    assert (builder.depth, builder.frontier_tokens, builder.frontier_logprobs) == (4, [7], [-0.5])
    assert (builder.frontier_parents, builder.frontier_paths()) == ([0], [(4, 5, 6, 7)])
    builder.expand([[8]], [[-0.25]])
    tree = builder.finish(chain=True)
    assert tree.tokens.tolist() == [ROOT, 4, 5, 6, 7, 8]
    assert tree.depths.tolist() == list(range(6))
    assert tree.logprobs == [0.0, 0.0, -0.5, -0.5, -0.5, -0.75]
    assert tree.ranks == [UNRANKED, UNRANKED, 0, UNRANKED, UNRANKED, 0]


def test_what_is_forced_below_the_root_is_shared_with_the_same_chain_merged_afterwards() -> None:
    builder = TreeBuilder(ROOT, TreeShape(depth=1, top_k=2))
    builder.force(4)
    builder.expand([[5, 6]], [[-0.5, -1.0]])
    builder.graft([4], [0.0])
    assert builder.finish().tokens.tolist() == [ROOT, 4, 5, 6]
