"""Forced tokens: drafted without a pass, before the first level of the draft model and behind every other one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.drafting.forced import ForcedSequence
from runtime.drafting.policy import StepBudget
from runtime.drafting.proposal import NO_EXIT
from runtime.drafting.sorted_draft import SortedDraft
from runtime.sampling.noise import Noise, Path, Paths
from runtime.tree.builder import UNRANKED, TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from tests.runtime.drafting.proposals import (
    EXITS,
    TEMPERATURES,
    TEXTS,
    VOCAB,
    Scripted,
    alone,
    assert_same_candidates,
    candidates,
    children,
    path_to,
    reading,
)

# Without a draft model


class Forcing:
    """A grammar that forces the same tokens everywhere."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def forced(self) -> list[int]:
        return [*self.tokens]


def sequence(tokens: Sequence[int]) -> ForcedSequence:
    grammar: Any = Forcing(tokens)
    return ForcedSequence(grammar)


@pytest.mark.parametrize(("room", "drafted"), [(5, [7, 8, 9]), (2, [7, 8]), (0, []), (-1, [])])
def test_at_most_the_room_is_drafted_and_it_is_sure(room: int, drafted: list[int]) -> None:
    forced, builder = sequence([7, 8, 9]), TreeBuilder(1, TreeShape())
    prospect = forced.prospect(room)
    assert (prospect.forced, prospect.copied, prospect.backlog) == (len(drafted), (), None)
    assert list(forced.propose(builder, StepBudget(), Noise(0, 0.0, 10), room)) == []
    tree = builder.finish(chain=True)
    assert tree.tokens.tolist() == [1, *drafted]
    assert tree.logprobs == [0.0] * len(tree)


@pytest.mark.parametrize(("gained", "agreed"), [([7, 8, 9, 4], 3), ([7, 5], 1), ([5], 0), ([7], 1)])
def test_it_says_how_many_the_text_gained(gained: list[int], agreed: int) -> None:
    forced = sequence([7, 8, 9])
    forced.prospect(5)
    assert forced.learn(gained) == agreed
    assert forced.follow(gained)
    assert forced.learn([7]) == 0


# With the sorted draft


class ForcedNoise(Noise):
    """Forces tokens behind some of the paths; which ones follows from ``seed`` and the path."""

    def __init__(self, seed: int, temperature: float, longest: int) -> None:
        super().__init__(seed, temperature, VOCAB)
        self._seed, self._longest = seed, longest
        self.plain = Noise(seed, temperature, VOCAB)

    def behind(self, path: Path) -> list[int]:
        rng = np.random.default_rng([self._seed, *path])
        return rng.integers(0, VOCAB, rng.integers(0, self._longest + 1)).tolist()

    def forced(self, paths: Paths) -> Sequence[int]:
        level = paths()
        return self.behind(level[0]) if len(level) == 1 else ()


class Charged(Scripted):
    """Counts rows of forced tokens."""

    rows = 0

    def also_runs(self, rows: int) -> None:
        self.rows += rows


@settings(max_examples=40)
@given(
    text=TEXTS,
    shape=st.builds(TreeShape, depth=st.integers(0, 3), top_k=st.sampled_from([1, 1, 3]), nodes=st.just(200)),
    temperature=TEMPERATURES,
    seed=st.integers(0, 99),
    longest=st.sampled_from([0, 1, 4, 12]),
    room=st.integers(0, 20),
    data=st.data(),
)
def test_forced_tokens_cost_no_pass_and_every_other_token_is_drafted_behind_its_own_path(
    draft: SortedDraft,
    text: list[int],
    shape: TreeShape,
    temperature: float,
    seed: int,
    longest: int,
    room: int,
    data: st.DataObject,
) -> None:
    noise, drafting = ForcedNoise(seed, temperature, longest), reading(draft, text)
    drafting.shape = shape
    for _ in range(3):
        builder = TreeBuilder(text[-1], shape)
        script = data.draw(st.lists(st.integers(0, EXITS - 1), min_size=4, max_size=4))
        budget = Charged(script)
        exits = alone(drafting.propose(builder, budget, noise, room))
        tree, expected = builder.finish(), list[int]()
        level: list[int] = [0]
        for exit_index in [*script[: shape.depth + 1], None]:
            if len(level) == 1:
                for token in noise.behind(tuple(path_to(tree, level[0])))[: room - len(expected)]:
                    (node,) = below(tree, level)
                    assert (tree.tokens[node], tree.ranks[node]) == (token, UNRANKED)
                    assert tree.logprobs[node] == tree.logprobs[level[0]], "as likely as the node before it"
                    expected, level = [*expected, NO_EXIT], [node]
            if exit_index is None or len(expected) == room:
                break
            for node in sorted({int(tree.parents[node]) for node in below(tree, level)}):
                behind = [*text, *path_to(tree, node)]
                assert_same_candidates(
                    children(tree, node), candidates(draft, behind, exit_index, noise.plain, shape.top_k)
                )
            expected, level = [*expected, exit_index], below(tree, level)
        assert below(tree, level) == []
        drafted = [depth for depth, exit_index in enumerate(expected, 1) if exit_index != NO_EXIT]
        assert exits == expected[: max(drafted, default=0)]
        assert budget.rows == exits.count(NO_EXIT)
        # The text goes on along a path of the tree, and then leaves it.
        gained = [*path_to(tree, data.draw(st.integers(0, len(tree) - 1))), data.draw(st.integers(0, VOCAB - 1))]
        assert drafting.follow(gained)
        text = text + gained


def below(tree: Tree, level: Sequence[int]) -> list[int]:
    """The children of some nodes."""
    found: list[int] = np.flatnonzero(np.isin(tree.parents, level)).tolist()
    return found


def test_what_is_forced_alone_is_proposed_where_there_is_no_room_for_more(draft: SortedDraft) -> None:
    class Always(ForcedNoise):
        def behind(self, path: Path) -> list[int]:
            return list(itertools.islice(itertools.cycle([7, 8]), len(path) % 2, 30))

    drafting, builder = reading(draft, [5, 9]), TreeBuilder(9, TreeShape())
    before = draft.engines.clock.seconds
    assert alone(drafting.propose(builder, Scripted([0] * 9), Always(0, 0.0, 0), 4)) == []
    assert builder.finish().tokens.tolist() == [9, 7, 8, 7, 8]
    assert draft.engines.clock.seconds == before
