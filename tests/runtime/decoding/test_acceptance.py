"""Acceptance: what comes out are the target's own choices, whatever the tree holds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.decoding.acceptance import Acceptance, accept
from runtime.sampling.chooser import Chooser
from runtime.sampling.noise import Noise
from runtime.sampling.options import Sampling
from runtime.sampling.rules import RepetitionPenalty
from runtime.tree.tree import Tree

VOCAB = 6
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    seed=st.integers(0, 2**32),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree in which siblings carry different tokens."""
    tokens, parents, depths = [draw(st.integers(0, VOCAB - 1))], [-1], [0]
    for _ in range(draw(st.integers(0, 14))):
        parent = draw(st.integers(0, len(tokens) - 1))
        taken = {token for token, its in zip(tokens, parents, strict=True) if its == parent}
        free = sorted(set(range(VOCAB)) - taken)
        if free:
            tokens.append(draw(st.sampled_from(free)))
            parents.append(parent)
            depths.append(depths[parent] + 1)
    return Tree(np.array(tokens), np.array(parents), np.array(depths))


def chooser(sampling: Sampling, text: list[int]) -> Chooser:
    assert sampling.seed is not None
    rules = [RepetitionPenalty(sampling.repetition_penalty, text, VOCAB)]
    return Chooser(sampling, Noise(sampling.seed, sampling.temperature, VOCAB), rules)


def table_model(seed: int) -> np.ndarray:
    """A target whose next logits depend on the two newest tokens: float32 ``[V, V, V]``."""
    return np.random.default_rng(seed).normal(0.0, 2.0, (VOCAB, VOCAB, VOCAB)).astype(np.float32)


def node_logits(model: np.ndarray, tree: Tree, before_root: int) -> np.ndarray:
    before = [before_root, *tree.tokens[tree.parents[1:]].tolist()]
    return np.stack([model[old, new] for old, new in zip(before, tree.tokens.tolist(), strict=True)])


def walk_by_hand(tree: Tree, logits: np.ndarray, sampling: Sampling, text: list[int]) -> Acceptance:
    """The rule word for word: a fresh chooser at each node, and a search through all children."""
    path, tokens, node = [0], list[int](), 0
    while True:
        token = chooser(sampling, text).choose(logits[node], len(text))
        text = [*text, token]
        tokens.append(token)
        children = [
            child for child in range(1, len(tree)) if tree.parents[child] == node and tree.tokens[child] == token
        ]
        if not children:
            return Acceptance(path, tokens)
        node = children[0]
        path.append(node)


@given(tree=trees(), sampling=SAMPLINGS, model_seed=st.integers(0, 2**32))
def test_the_walk_equals_a_walk_by_hand(tree: Tree, sampling: Sampling, model_seed: int) -> None:
    text = [1, 2, int(tree.tokens[0])]
    logits = node_logits(table_model(model_seed), tree, 2)
    assert accept(tree, logits, chooser(sampling, text), len(text) - 1) == walk_by_hand(tree, logits, sampling, text)


@given(tree=trees(), sampling=SAMPLINGS, model_seed=st.integers(0, 2**32))
def test_the_tokens_are_those_the_target_alone_chooses(tree: Tree, sampling: Sampling, model_seed: int) -> None:
    model = table_model(model_seed)
    text = [1, 2, int(tree.tokens[0])]
    result = accept(tree, node_logits(model, tree, 2), chooser(sampling, text), len(text) - 1)
    alone = chooser(sampling, text)
    assert result.tokens[:-1] == tree.tokens[result.path[1:]].tolist()
    for token in result.tokens:
        assert token == alone.choose(model[text[-2], text[-1]], len(text))
        text.append(token)


@given(tree=trees(), sampling=SAMPLINGS, model_seed=st.integers(0, 2**32))
def test_the_path_descends_from_the_root_and_ends_where_no_child_carries_the_token(
    tree: Tree, sampling: Sampling, model_seed: int
) -> None:
    result = accept(tree, node_logits(table_model(model_seed), tree, 2), chooser(sampling, [2]), 2)
    assert result.path[0] == 0
    assert tree.parents[result.path[1:]].tolist() == result.path[:-1]
    assert (result.path[-1], result.tokens[-1]) not in tree.children()


def test_a_repetition_penalty_counts_the_tokens_accepted_on_the_way() -> None:
    tree = Tree(np.array([0, 3, 3]), np.array([-1, 0, 1]), np.array([0, 1, 2]))
    logits = np.full((3, VOCAB), -9.0, np.float32)
    logits[:, 3], logits[:, 4] = 2.0, 1.5
    assert accept(tree, logits, chooser(Sampling(seed=0), [0]), 0) == Acceptance([0, 1, 2], [3, 3, 3])
    penalised = Sampling(repetition_penalty=2.0, seed=0)
    assert accept(tree, logits, chooser(penalised, [0]), 0) == Acceptance([0, 1], [3, 4])


def test_the_walk_leaves_the_chooser_having_seen_what_was_accepted() -> None:
    tree = Tree(np.array([0, 3]), np.array([-1, 0]), np.array([0, 1]))
    logits = np.full((2, VOCAB), -9.0, np.float32)
    logits[0, 3], logits[1, 5] = 2.0, 2.0
    walked = chooser(Sampling(repetition_penalty=2.0, seed=0), [0])
    accept(tree, logits, walked, 0)
    ones = np.ones(VOCAB, np.float32)
    assert walked.scores(ones, 3).tolist() == [0.5, 1.0, 1.0, 0.5, 1.0, 0.5]


def test_a_root_alone_accepts_one_token() -> None:
    logits = np.eye(VOCAB, dtype=np.float32)[[2]]
    assert accept(Tree.chain([1]), logits, chooser(Sampling(seed=0), [1]), 0) == Acceptance([0], [2])
