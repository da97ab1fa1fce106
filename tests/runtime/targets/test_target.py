"""The target: a tree is scored as if each of its paths had been read alone, and what is accepted stays as if read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.targets.target import PREFILL_CHUNK, BundleSequence, Target
from runtime.tree.tree import Tree
from s2d_trt.bundle import SCRATCH_ROWS
from s2d_trt.errors import CapacityError

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
    return Tree(rng.integers(0, VOCAB, size), parents, depths, np.zeros(size))


def chain(tokens: list[int]) -> Tree:
    return Tree(np.array(tokens), np.arange(-1, len(tokens) - 1), np.arange(len(tokens)), np.zeros(len(tokens)))


def path_to(tree: Tree, node: int) -> list[int]:
    """Nodes from the root down to ``node``."""
    path = [node]
    while path[0] > 0:
        path.insert(0, int(tree.parents[path[0]]))
    return path


def read_at_once(target: Target, text: list[int]) -> np.ndarray:
    """Logits after ``text`` in a slot of its own."""
    slot = target.lease()
    try:
        return slot.prefill(text).copy()
    finally:
        target.release(slot)


def holding(target: Target, text: list[int]) -> BundleSequence:
    slot = target.lease()
    slot.prefill(text)
    return slot


def verified(slot: BundleSequence, tree: Tree) -> np.ndarray:
    """Logits to keep beyond the slot's next call."""
    return slot.verify(tree).copy()


@settings(max_examples=20)
@given(seed=SEEDS, length=LENGTHS, size=st.integers(1, 24))
def test_each_row_of_a_verified_tree_is_that_of_its_path_read_alone(
    target: Target, seed: int, length: int, size: int
) -> None:
    text, tree = random_text(seed, length), random_tree(seed, size)
    slot = holding(target, text)
    logits = verified(slot, tree)
    target.release(slot)
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
    slot = holding(target, text)
    slot.verify(tree)
    slot.commit(path)
    text += tree.tokens[path].tolist()
    assert slot.length == len(text)
    follower = random_tree(seed + 1, again)
    logits = verified(slot, follower)
    target.release(slot)
    reference = holding(target, text)
    assert logits == pytest.approx(verified(reference, follower), abs=TOLERANCE)
    target.release(reference)


def test_verifying_again_without_committing_changes_nothing(target: Target) -> None:
    tree = random_tree(4, 9)
    slot = holding(target, random_text(1, 10))
    first = verified(slot, tree)
    slot.verify(random_tree(5, 20))
    assert slot.verify(tree) == pytest.approx(first, abs=TOLERANCE)
    target.release(slot)


@settings(max_examples=12)
@given(seed=SEEDS, length=LENGTHS, data=st.data())
def test_truncating_forgets_what_follows(target: Target, seed: int, length: int, data: st.DataObject) -> None:
    text = random_text(seed, length)
    kept = data.draw(st.integers(0, length - 1))
    more = random_text(seed + 1, 5)
    slot = holding(target, text)
    slot.truncate(kept)
    assert slot.length == kept
    logits = slot.prefill(more).copy()
    target.release(slot)
    assert logits == pytest.approx(read_at_once(target, text[:kept] + more), abs=TOLERANCE)


def test_truncating_beyond_the_end_changes_nothing(target: Target) -> None:
    slot = holding(target, [1, 2, 3])
    slot.truncate(9)
    assert slot.length == 3
    target.release(slot)


@settings(max_examples=12)
@given(seed=SEEDS, cuts=st.lists(st.integers(1, 219), max_size=4, unique=True))
def test_a_prompt_read_in_parts_is_the_prompt_read_at_once(target: Target, seed: int, cuts: list[int]) -> None:
    text = random_text(seed, 220)
    assert len(text) > PREFILL_CHUNK
    slot, bounds = target.lease(), [0, *sorted(cuts), len(text)]
    for start, stop in itertools.pairwise(bounds):
        logits = slot.prefill(text[start:stop]).copy()
    target.release(slot)
    assert logits == pytest.approx(read_at_once(target, text), abs=TOLERANCE)


def test_logits_are_those_of_the_checkpoint(target: Target, target_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target_checkpoint, dtype=torch.float32)
    text = random_text(8, 150)
    with torch.no_grad():
        expected = model(torch.tensor([text])).logits[0, -1].numpy()
    assert read_at_once(target, text) == pytest.approx(expected, abs=1e-3)


def test_slots_do_not_disturb_each_other(target: Target) -> None:
    texts = [random_text(1, 70), random_text(2, 9)]
    tree = random_tree(3, 12)
    alone = []
    for text in texts:
        slot = holding(target, text)
        alone.append(verified(slot, tree))
        target.release(slot)
    slots = [holding(target, text) for text in texts]
    for slot, expected in zip(slots, alone, strict=True):
        assert slot.verify(tree) == pytest.approx(expected, abs=TOLERANCE)
        target.release(slot)


def test_a_released_slot_is_handed_out_again_empty(target: Target) -> None:
    slot = holding(target, random_text(1, 30))
    target.release(slot)
    assert target.lease() is slot
    assert (slot.length, slot.clock.seconds) == (0, 0.0)
    target.release(slot)


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
    for slot in (together, apart):
        slot.prefill(text)
    expected = verified(together, chain(tokens))
    at = 0
    while at < size:
        step = data.draw(st.integers(1, size - at))
        assert np.array_equal(apart.verify(chain(tokens[at : at + step])), expected[at : at + step])
        apart.commit(list(range(step)))
        at += step
    target.release(together)
    target.release(apart)


def test_a_slot_is_exact_only_for_the_text_that_asked_for_it(target: Target) -> None:
    slot = target.lease(exact_rows=8)
    target.release(slot)
    assert target.lease() is slot
    assert not slot.exact_rows
    target.release(slot)


def test_a_text_beyond_the_capacity_is_refused_and_leaves_the_slot_as_it_was(target: Target) -> None:
    slot = holding(target, [1] * 200)
    with pytest.raises(CapacityError, match="needs 257 positions and target target has 256"):
        slot.prefill([1] * 57)
    assert slot.length == 200
    slot.prefill([1] * 56)
    target.release(slot)


def test_a_large_tree_fits_behind_the_longest_text(target: Target) -> None:
    text, size = random_text(1, target.max_length - 1), SCRATCH_ROWS
    tree = Tree(np.full(size, 7), np.array([-1] + [0] * (size - 1)), np.array([0] + [0] * (size - 1)), np.zeros(size))
    slot = holding(target, text)
    assert slot.verify(tree)[0] == pytest.approx(read_at_once(target, [*text, 7]), abs=TOLERANCE)
    target.release(slot)
