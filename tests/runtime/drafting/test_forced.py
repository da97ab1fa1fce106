"""Forced tokens as a drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from runtime.drafting.forced import PRIOR, ForcedOdds, ForcedSequence
from runtime.drafting.policy import StepBudget
from runtime.sampling.noise import Noise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape


class Forcing:
    """A grammar that forces the same tokens everywhere."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def forced(self) -> list[int]:
        return [*self.tokens]


def sequence(tokens: Sequence[int]) -> ForcedSequence:
    grammar: Any = Forcing(tokens)
    return ForcedSequence(ForcedOdds(), grammar)


def test_at_most_the_room_is_drafted_with_falling_log_probabilities() -> None:
    forced, builder = sequence([7, 8, 9]), TreeBuilder(1, TreeShape())
    copied = forced.prospect(2).copied
    assert len(copied) == 2
    assert 0.0 > copied[0] > copied[1]
    list(forced.propose(builder, StepBudget(), Noise(0, 0.0, 10), 2))
    assert builder.finish(chain=True).tokens.tolist() == [1, 7, 8]


@pytest.mark.parametrize(("gained", "agreed"), [([7, 8, 9, 4], 3), ([7, 5], 1), ([5], 0), ([7], 1)])
def test_it_learns_how_many_were_right(gained: list[int], agreed: int) -> None:
    forced = sequence([7, 8, 9])
    forced.prospect(5)
    assert forced.learn(gained) == agreed
    assert (forced._odds.accepted.value > PRIOR) == (agreed == len(gained) or agreed == 3)
    assert forced.follow(gained)
    assert forced.learn([7]) == 0


def test_where_nothing_is_forced_nothing_is_drafted() -> None:
    forced, builder = sequence([]), TreeBuilder(1, TreeShape())
    assert forced.prospect(5).copied == []
    list(forced.propose(builder, StepBudget(), Noise(0, 0.0, 10), 5))
    assert len(builder.finish()) == 1
