"""The target: a tree is scored as if each of its paths had been read alone, and what is accepted stays as if read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends import PREFILL_CHUNK
from runtime.targets.target import BundleSequence, Target
from runtime.tree.tree import Tree
from s2d_trt.errors import CapacityError
from s2d_trt.manifest import SCRATCH_ROWS

VOCAB = 300
TOLERANCE = 1e-4
LENGTHS = st.one_of(st.integers(1, 20), st.sampled_from([62, 63, 64, 65, PREFILL_CHUNK, PREFILL_CHUNK + 1, 200]))
SEEDS = st.integers(0, 10_000)


def random_text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def random_tree(seed: int, size: int) -> Tree:
    """Any tree whose nodes come after their parents."""
    rng = np.random.default_rng(seed)
    parents = np.array([-1, *(int(rng.integers(max(0, node - 6), node)) for node in range(1, size))])
    depths = np.zeros(size, np.int64)
    for node in range(1, size):
        depths[node] = depths[parents[node]] + 1
    return Tree(rng.integers(0, VOCAB, size), parents, depths)


def path_to(tree: Tree, node: int) -> list[int]:
    """Nodes from the root down to ``node``."""
    path = [node]
    while path[0] > 0:
        path.insert(0, int(tree.parents[path[0]]))
    return path


def read_at_once(target: Target, text: list[int]) -> np.ndarray:
    """Logits after ``text`` in a sequence of its own."""
    sequence = target.lease()
    try:
        return sequence.prefill(text).copy()
    finally:
        target.release(sequence)


def holding(target: Target, text: list[int]) -> BundleSequence:
    sequence = target.lease()
    sequence.prefill(text)
    return sequence


def verified(sequence: BundleSequence, tree: Tree) -> np.ndarray:
    """Logits to keep beyond the sequence's next call."""
    return sequence.verify(tree).copy()


@settings(max_examples=20)
@given(seed=SEEDS, length=LENGTHS, size=st.integers(1, 24))
def test_each_row_of_a_verified_tree_is_that_of_its_path_read_alone(
    target: Target, seed: int, length: int, size: int
) -> None:
    text, tree = random_text(seed, length), random_tree(seed, size)
    sequence = holding(target, text)
    logits = verified(sequence, tree)
    target.release(sequence)
    assert logits.shape == (size, VOCAB)
    for node in range(size):
        path = tree.tokens[path_to(tree, node)].tolist()
        assert logits[node] == pytest.approx(read_at_once(target, text + path), abs=TOLERANCE)


@settings(max_examples=20)
@given(seed=SEEDS, length=LENGTHS, size=st.integers(1, 24), node=st.integers(0, 23), again=st.integers(1, 8))
def test_committing_a_scattered_path_leaves_the_cache_as_if_the_path_had_been_read(
    target: Target, seed: int, length: int, size: int, node: int, again: int
) -> None:
    text, tree = random_text(seed, length), random_tree(seed, size)
    path = path_to(tree, min(node, size - 1))
    sequence = holding(target, text)
    sequence.verify(tree)
    sequence.commit(path)
    text += tree.tokens[path].tolist()
    assert sequence.length == len(text)
    follower = random_tree(seed + 1, again)
    logits = verified(sequence, follower)
    target.release(sequence)
    reference = holding(target, text)
    assert logits == pytest.approx(verified(reference, follower), abs=TOLERANCE)
    target.release(reference)


def test_verifying_again_without_committing_changes_nothing(target: Target) -> None:
    tree = random_tree(4, 9)
    sequence = holding(target, random_text(1, 10))
    first = verified(sequence, tree)
    sequence.verify(random_tree(5, 20))
    assert sequence.verify(tree) == pytest.approx(first, abs=TOLERANCE)
    target.release(sequence)


@settings(max_examples=12)
@given(seed=SEEDS, cuts=st.lists(st.integers(1, 219), max_size=4, unique=True))
def test_a_prompt_read_in_parts_is_the_prompt_read_at_once(target: Target, seed: int, cuts: list[int]) -> None:
    text = random_text(seed, 220)
    assert len(text) > PREFILL_CHUNK
    sequence, bounds = target.lease(), [0, *sorted(cuts), len(text)]
    for start, stop in itertools.pairwise(bounds):
        logits = sequence.prefill(text[start:stop]).copy()
    target.release(sequence)
    assert logits == pytest.approx(read_at_once(target, text), abs=TOLERANCE)


def test_logits_are_those_of_the_checkpoint(target: Target, target_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target_checkpoint, dtype=torch.float32)
    text = random_text(8, 150)
    with torch.no_grad():
        expected = model(torch.tensor([text])).logits[0, -1].numpy()
    assert read_at_once(target, text) == pytest.approx(expected, abs=1e-3)


def test_sequences_do_not_disturb_each_other(target: Target) -> None:
    texts = [random_text(1, 70), random_text(2, 9)]
    tree = random_tree(3, 12)
    alone = []
    for text in texts:
        sequence = holding(target, text)
        alone.append(verified(sequence, tree))
        target.release(sequence)
    sequences = [holding(target, text) for text in texts]
    for sequence, expected in zip(sequences, alone, strict=True):
        assert sequence.verify(tree) == pytest.approx(expected, abs=TOLERANCE)
        target.release(sequence)


def test_a_released_sequence_is_handed_out_again_empty(target: Target) -> None:
    sequence = holding(target, random_text(1, 30))
    target.release(sequence)
    assert target.lease() is sequence
    assert sequence.length == 0
    target.release(sequence)


def test_exact_rows_keep_their_bits_in_every_call_on_this_machine(target: Target, other_target: Target) -> None:
    target.check_exact()
    other_target.check_exact()


@settings(max_examples=15)
@given(seed=SEEDS, length=LENGTHS, size=st.integers(2, 20), data=st.data())
def test_exact_gives_a_row_the_same_bits_alone_and_together(
    target: Target, seed: int, length: int, size: int, data: st.DataObject
) -> None:
    text, tokens = random_text(seed, length), random_text(seed + 1, size)
    together, apart = target.lease(exact_rows=20), target.lease(exact_rows=20)
    for sequence in (together, apart):
        sequence.prefill(text)
    expected = verified(together, Tree.chain(tokens))
    at = 0
    while at < size:
        step = data.draw(st.integers(1, size - at))
        assert np.array_equal(apart.verify(Tree.chain(tokens[at : at + step])), expected[at : at + step])
        apart.commit(list(range(step)))
        at += step
    target.release(together)
    target.release(apart)


def test_a_sequence_is_exact_only_for_the_text_that_asked_for_it(target: Target) -> None:
    sequence = target.lease(exact_rows=8)
    target.release(sequence)
    assert target.lease() is sequence
    assert not sequence.exact_rows
    target.release(sequence)


def test_a_text_beyond_the_capacity_is_refused_and_leaves_the_sequence_as_it_was(target: Target) -> None:
    sequence = holding(target, [1] * 200)
    with pytest.raises(CapacityError, match="needs 257 positions and target target has 256"):
        sequence.prefill([1] * 57)
    assert sequence.length == 200
    sequence.prefill([1] * 56)
    target.release(sequence)


def test_a_large_tree_fits_behind_the_longest_text(target: Target) -> None:
    text, size = random_text(1, target.max_length - 1), SCRATCH_ROWS
    tree = Tree(np.full(size, 7), np.array([-1] + [0] * (size - 1)), np.array([0] + [0] * (size - 1)))
    sequence = holding(target, text)
    assert sequence.verify(tree)[0] == pytest.approx(read_at_once(target, [*text, 7]), abs=TOLERANCE)
    target.release(sequence)
