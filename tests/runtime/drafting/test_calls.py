"""Texts that draft together share one call of each graph in each round, and each continues with its own result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.drafting.calls import run_together
from runtime.drafting.proposal import Proposal
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft, flush_together
from runtime.sampling.noise import Noise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from tests.runtime.drafting.proposals import (
    EXITS,
    VOCAB,
    Scripted,
    assert_proposal_is_that_of_the_text,
    propose,
    reading,
)


@dataclass(frozen=True)
class Noted:
    """A call of an imaginary graph; its result is its number, doubled."""

    graph: str
    number: int
    made: ClassVar[list[tuple[str, list[int]]]] = []

    @staticmethod
    def run(calls: Sequence[Noted]) -> list[int]:
        Noted.made.append((calls[0].graph, [call.number for call in calls]))
        assert len({call.graph for call in calls}) == 1
        return [2 * call.number for call in calls]


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    Noted.made.clear()


def text(graphs: str, name: int = 0) -> Generator[Noted, int, list[int]]:
    """Calls each of ``graphs`` in turn; returns the results."""
    results = []
    for number, graph in enumerate(graphs):
        results.append((yield Noted(graph, 100 * name + number)))
    return results


def together(*texts: Generator[Noted, int, list[int]]) -> list[list[int]]:
    drafting: Any = texts
    return run_together(drafting)


@given(st.lists(st.text("abc", max_size=6), max_size=6))
def test_each_text_gets_the_results_of_its_own_calls_and_what_texts_return_is_in_their_order(texts: list[str]) -> None:
    Noted.made.clear()
    returned = together(*(text(graphs, name) for name, graphs in enumerate(texts)))
    assert returned == [[200 * name + 2 * at for at in range(len(graphs))] for name, graphs in enumerate(texts)]
    # In round n each text that is long enough makes its call number n; those of the same graph are one.
    rounds = [
        Counter(graphs[at] for graphs in texts if len(graphs) > at) for at in range(max(map(len, texts), default=0))
    ]
    expected = [(graph, count) for each in rounds for graph, count in each.items()]
    assert sorted((graph, len(numbers)) for graph, numbers in Noted.made) == sorted(expected)


def test_texts_of_different_length_share_the_calls_that_they_have_in_common() -> None:
    together(text("aab", 1), text("a", 2), text("aa", 3))
    assert Noted.made == [("a", [100, 200, 300]), ("a", [101, 301]), ("b", [102])]


def test_texts_without_calls_make_none() -> None:
    assert together(text(""), text("")) == [[], []]
    assert together() == []
    assert not Noted.made


def test_an_error_of_a_call_is_raised() -> None:
    def failing() -> Generator[Any, Any, None]:
        yield Failing()

    with pytest.raises(RuntimeError, match="the engine is gone"):
        run_together([failing()])


class Failing:
    graph = "a"

    @staticmethod
    def run(calls: Sequence[Failing]) -> list[None]:
        raise RuntimeError("the engine is gone")


# The sorted draft


@pytest.fixture
def counted(draft: SortedDraft, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lanes each call of the draft's engines has."""
    lanes: list[int] = []
    for name in ("forward", "candidates"):
        run = getattr(draft.engines, name)

        def noted(*arguments: Any, run: Any = run) -> Any:
            lanes.append(len(arguments[-1]))
            return run(*arguments)

        monkeypatch.setattr(draft.engines, name, noted)
    return lanes


def proposals(
    draft: SortedDraft, texts: list[list[int]], exits: Sequence[Sequence[int]], shape: TreeShape
) -> list[Proposal]:
    """What the texts propose together below their last tokens."""
    noise, builders, drafting = Noise(0, 0.0, VOCAB), [], []
    for tokens, script in zip(texts, exits, strict=True):
        sequence = draft.empty_sequence()
        sequence.shape = shape
        sequence.prefill(tokens)
        builders.append(TreeBuilder(tokens[-1], shape))
        drafting.append(sequence.propose(builders[-1], Scripted(script), noise, 999))
    answered = run_together(drafting)
    return [Proposal(builder.finish(), each) for builder, each in zip(builders, answered, strict=True)]


@settings(max_examples=12)
@given(
    lengths=st.lists(st.sampled_from([1, 7, 63, 64, 130]), min_size=2, max_size=5),
    shape=st.sampled_from([TreeShape(depth=2), TreeShape(depth=2, top_k=3, nodes=100)]),
    data=st.data(),
)
def test_texts_that_draft_together_propose_what_each_proposes_alone(
    draft: SortedDraft, lengths: list[int], shape: TreeShape, data: st.DataObject
) -> None:
    texts = [np.random.default_rng(at).integers(0, VOCAB, length).tolist() for at, length in enumerate(lengths)]
    scripts = st.lists(st.integers(0, EXITS - 1), min_size=shape.depth + 1, max_size=shape.depth + 1)
    exits = [data.draw(scripts) for _ in texts]
    for tokens, script, proposal in zip(texts, exits, proposals(draft, texts, exits, shape), strict=True):
        assert proposal.exits == script
        assert_proposal_is_that_of_the_text(draft, tokens, proposal, Noise(0, 0.0, VOCAB), shape)


def test_texts_that_draft_alike_make_as_many_calls_as_one(draft: SortedDraft, counted: list[int]) -> None:
    texts, exits = [[5, 9], [7] * 60, [1, 2, 3]], [[0, 2, 1]] * 3
    for tokens in texts:
        propose(reading(draft, tokens), tokens[-1], Noise(0, 0.0, VOCAB), Scripted(exits[0]), TreeShape(depth=2))
    alone = len(counted) // len(texts)
    counted.clear()
    proposals(draft, texts, exits, TreeShape(depth=2))
    # The prompts were read one by one: a call for each segment of each text.
    assert counted[: EXITS * len(texts)] == [1] * EXITS * len(texts)
    assert counted[EXITS * len(texts) :] == [len(texts)] * (alone - EXITS)


def test_backlogs_of_several_texts_are_run_in_one_call(draft: SortedDraft, counted: list[int]) -> None:
    sequences = [DraftSequence(draft) for _ in range(3)]
    for sequence in sequences:
        sequence.enqueue([5, 9, 200])
    flush_together(sequences, 0)
    assert counted == [3]
    assert [sequence.backlogs for sequence in sequences] == [[0, 3, 0]] * 3


@pytest.mark.parametrize(("rows", "left"), [(0, 200), (1, 199), (150, 50), (199, 1), (500, 1)])
def test_a_prompt_is_caught_up_piece_by_piece_but_for_the_token_that_drafting_starts_from(
    draft: SortedDraft, counted: list[int], rows: int, left: int
) -> None:
    sequence = DraftSequence(draft)
    sequence.enqueue([7] * 200)
    run_together([sequence.catch_up(rows)])
    assert sequence.backlogs[0] == left
    assert len(counted) == -(-(200 - left) // sequence._chunk)
    run_together([sequence.catch_up(500)])
    assert sequence.backlogs[0] == 1
    run_together([sequence.catch_up(500)])
    assert sequence.backlogs[0] == 1
