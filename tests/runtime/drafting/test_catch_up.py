"""Running what an early exit skipped: a proposal is always that of the same text read at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.sampling.noise import Noise
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from tests.runtime.drafting.proposals import (
    EXITS,
    SHAPES,
    TEMPERATURES,
    TEXTS,
    VOCAB,
    Scripted,
    assert_proposal_is_that_of_the_text,
    children,
    path_to,
    propose,
    reading,
)


@dataclass
class Round:
    """One step of a text's life: draft, accept some of it, go on with a token of the target's own."""

    shape: TreeShape
    exits: list[int]
    branch: int
    accepted: int
    own_token: int
    cut: int = 0
    extra: list[int] = field(default_factory=list)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    shape = draw(SHAPES)
    return Round(
        shape=shape,
        exits=draw(st.lists(st.integers(0, EXITS - 1), min_size=shape.depth + 1, max_size=shape.depth + 1)),
        branch=draw(st.integers(0, 10**6)),
        accepted=draw(st.integers(0, shape.depth + 1)),
        own_token=draw(st.integers(0, VOCAB - 1)),
        cut=draw(st.sampled_from([0, 0, 0, 1, 5])),
        extra=draw(st.lists(st.integers(0, VOCAB - 1), max_size=2)),
    )


def accepted_tokens(tree: Tree, this: Round) -> list[int]:
    """A path of at most ``this.accepted`` nodes that prefers later branches now and then, and the own token."""
    node, choices = 0, this.branch
    for _ in range(this.accepted):
        below = np.flatnonzero(tree.parents == node)
        if not len(below):
            break
        node = int(below[choices % len(below)]) if choices % 3 == 0 else int(below[0])
        choices //= 3
    return [*path_to(tree, node), this.own_token]


def rows_in_place(tree: Tree, shape: TreeShape, tokens: list[int]) -> int:
    """How many tree rows already hold ``tokens``: of a chain the accepted ones, of a wider tree the first at most."""
    drafted: list[int] = []
    node = 0
    for _ in range(min(shape.depth, 1 if shape.top_k > 1 else shape.depth)):
        below = np.flatnonzero(tree.parents == node)
        node = max(below.tolist(), key=tree.logprobs.__getitem__)
        drafted.append(int(tree.tokens[node]))
    same = 0
    while same < min(len(drafted), len(tokens)) and drafted[same] == tokens[same]:
        same += 1
    return same


def backlogs(done: list[int], rows: int) -> list[int]:
    return [before - after for before, after in zip([rows, *done[:-1]], done, strict=True)]


@settings(max_examples=20)
@given(prompt=TEXTS, life=st.lists(rounds(), min_size=1, max_size=4), temperature=TEMPERATURES)
def test_every_proposal_of_a_texts_life_is_that_of_the_same_text_read_at_once(
    draft: SortedDraft, prompt: list[int], life: list[Round], temperature: float
) -> None:
    sequence, text, noise = reading(draft, prompt), list(prompt), Noise(3, temperature, VOCAB)
    for this in life:
        proposal = propose(sequence, text[-1], noise, Scripted(this.exits), this.shape)
        assert proposal.exits == this.exits
        assert_proposal_is_that_of_the_text(draft, text, proposal, noise, this.shape)
        tokens = accepted_tokens(proposal.tree, this)
        sequence.enqueue(tokens)
        text += tokens
        if this.cut:
            text = text[: max(1, len(text) - this.cut)]
            sequence.truncate(len(text))
            # What is cut off is replaced: the last row is to be read anew.
            text.append(this.own_token)
            sequence.enqueue([this.own_token])
        if this.extra:
            sequence.enqueue(this.extra)
            text += this.extra


@settings(max_examples=40)
@given(prompt=TEXTS, life=st.lists(rounds(), min_size=1, max_size=5))
def test_the_backlog_of_a_segment_is_the_difference_of_the_rows_that_segments_have_run(
    draft: SortedDraft, prompt: list[int], life: list[Round]
) -> None:
    sequence, noise = DraftSequence(draft), Noise(0, 0.0, VOCAB)
    sequence.enqueue(prompt)
    length, done = len(prompt), [0] * EXITS
    assert sequence.backlogs == [length, 0, 0]
    sequence.truncate(0)
    sequence.prefill(prompt)
    done = [length] * EXITS
    assert sequence.backlogs == [0, 0, 0]
    for this in life:
        proposal = propose(sequence, 1, noise, Scripted(this.exits), this.shape)
        for depth, answered in enumerate(this.exits):
            rows = length + depth * this.shape.top_k
            done = [rows if segment <= answered else before for segment, before in enumerate(done)]
        assert sequence.backlogs == backlogs(done, rows)

        tokens = accepted_tokens(proposal.tree, this)
        in_place = length + rows_in_place(proposal.tree, this.shape, tokens)
        sequence.enqueue(tokens)
        length += len(tokens)
        done = [min(before, in_place) for before in done]
        assert sequence.committed == length
        assert sequence.backlogs == backlogs(done, length)

        length = max(1, length - this.cut)
        sequence.truncate(length)
        done = [min(before, length) for before in done]
        assert sequence.backlogs == backlogs(done, length)
        sequence.enqueue([this.own_token])
        length += 1
        assert sequence.backlogs == backlogs(done, length)


@pytest.mark.parametrize("accepted", range(5))
def test_an_accepted_chain_stays_in_place_and_changes_no_proposal(draft: SortedDraft, accepted: int) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=3)
    sequence = reading(draft, text)
    chain = propose(sequence, text[-1], noise, Scripted([2, 0, 1, 2]), shape).tree
    tokens = [*chain.tokens[1 : 1 + accepted].tolist(), 7]
    sequence.enqueue(tokens)
    # Only what was not drafted is backlog; of the four drafted tokens the last has no row yet.
    assert sequence.backlogs[0] == len(tokens) - min(accepted, 3)
    again = propose(sequence, tokens[-1], noise, Scripted([0, 1, 2, 0]), shape)
    assert_proposal_is_that_of_the_text(draft, text + tokens, again, noise, shape)


def test_a_wide_trees_row_is_not_taken_for_the_token_that_follows_in_its_place(draft: SortedDraft) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=2, top_k=3, nodes=100)
    sequence = reading(draft, text)
    tree = propose(sequence, text[-1], noise, Scripted([2, 1, 2]), shape).tree
    # Siblings stand side by side in the cache; the text goes on with the first and then, by chance, with the others.
    siblings = list(children(tree, 0))
    sequence.enqueue(siblings)
    assert sequence.backlogs[0] == 2
    again = propose(sequence, siblings[-1], noise, Scripted([0, 2, 1]), shape)
    assert_proposal_is_that_of_the_text(draft, text + siblings, again, noise, shape)


def test_a_chains_row_behind_another_token_is_read_anew(draft: SortedDraft) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=3)
    sequence = reading(draft, text)
    drafted = propose(sequence, text[-1], noise, Scripted([2] * 4), shape).tree.tokens[1:].tolist()
    tokens = [(drafted[0] + 1) % VOCAB, drafted[1], drafted[2]]
    sequence.enqueue(tokens)
    assert sequence.backlogs[0] == 3
    again = propose(sequence, tokens[-1], noise, Scripted([2] * 4), shape)
    assert_proposal_is_that_of_the_text(draft, text + tokens, again, noise, shape)
