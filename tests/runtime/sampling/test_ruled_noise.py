"""What a draft sees of the rules: along every path its row ranks tokens as the target's choice there does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.chooser import Chooser
from runtime.sampling.noise import Noise, Path
from runtime.sampling.options import Sampling
from runtime.sampling.ruled_noise import RuledNoise
from runtime.sampling.rules import BadWords, CountPenalty, LogitBias, MinTokens, RepetitionPenalty, Rule

VOCAB = 9
PROMPT = [1, 2]


def rules() -> list[Rule]:
    return [
        CountPenalty(0.5, 0.25, VOCAB),
        LogitBias({3: 2.0, 4: -1.5}),
        BadWords([(5,), (2, 6), (6, 7)], PROMPT),
        MinTokens(2, (0, 8)),
    ]


@given(st.lists(st.integers(0, VOCAB - 1), max_size=4), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3))
def test_along_a_chain_the_row_is_what_the_target_adds_to_its_logits(text: list[int], chain: list[int]) -> None:
    noise, logits = Noise(7, 1.0, VOCAB), np.random.default_rng(len(text)).normal(size=VOCAB).astype(np.float32)
    chooser = Chooser(Sampling(1.0, seed=7), noise, rules())
    for token in text:
        chooser.follow(token)
    ruled = RuledNoise(noise, chooser.rules)
    first = len(PROMPT) + len(text)
    rows = [ruled.row(first + depth, lambda at=depth: [tuple(chain[:at])]) for depth in range(len(chain))]
    for depth, row in enumerate(rows):
        assert row is not None
        assert logits + row == pytest.approx(chooser.scores(logits, first + depth), abs=1e-5)
        chooser.follow(chain[depth])


def test_in_a_tree_each_candidate_is_held_against_its_own_path() -> None:
    ruled = RuledNoise(Noise(0, 0.0, VOCAB), [BadWords([(2, 6), (3, 7), (3, 8)], [])])
    levels: list[list[Path]] = [[()], [(2,), (3,)]]
    for depth, level in enumerate(levels):
        row = ruled.row(depth, lambda at=level: at)
    assert row is not None
    assert not np.isinf(row).any(), "each token may follow one of the paths"
    tokens, logprobs = np.array([[6, 7, 8], [7, 6, 8]]), np.log([[0.5, 0.3, 0.2]] * 2)
    tokens, logprobs = ruled.restrict(tokens, logprobs)
    assert tokens.tolist() == [[7, 8, 6], [6, 7, 8]]
    assert np.exp(logprobs) == pytest.approx(np.array([[0.3, 0.2, 0.0], [0.3, 0.0, 0.0]]))


def test_rows_leave_the_rules_of_the_text_where_they_are() -> None:
    live = rules()
    ruled = RuledNoise(Noise(0, 0.0, VOCAB), live)
    before = ruled.row(0, lambda: [()])
    for path in ([(3,)], [(3, 3)]):
        ruled.row(1, lambda at=path: at)
    again = ruled.row(0, lambda: [()])
    assert before is not None
    assert again is not None
    assert np.array_equal(before, again)


class Ending(Rule):
    """Ends a text with token 4."""

    def __init__(self) -> None:
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def apply(self, scores: np.ndarray) -> np.ndarray:
        return scores

    def follow(self, token: int) -> None:
        self._ended = token == 4


class Forced(Rule):
    """Forces 5 and 6 behind token 4, and 6 behind these."""

    def __init__(self) -> None:
        self._left: list[int] = []

    def apply(self, scores: np.ndarray) -> np.ndarray:
        return scores

    def follow(self, token: int) -> None:
        self._left = [5, 6] if token == 4 else self._left[1:]

    def forced(self) -> list[int]:
        return self._left


def test_what_is_forced_behind_one_path_is_that_of_its_rules_and_behind_several_nothing() -> None:
    rule = Forced()
    ruled = RuledNoise(Noise(0, 0.0, VOCAB), [*rules(), rule])
    assert list(ruled.forced(lambda: [()])) == []
    assert list(ruled.forced(lambda: [(4,)])) == [5, 6]
    assert list(ruled.forced(lambda: [(3, 4, 5)])) == [6], "paths between were not asked for"
    assert list(ruled.forced(lambda: [(4,), (3,)])) == []
    rule.follow(4)
    assert list(ruled.forced(lambda: [()])) == [5, 6], "a new step begins where the text is"
    assert list(Noise(0, 0.0, VOCAB).forced(lambda: [()])) == []


def test_a_path_that_a_rule_ended_goes_no_further() -> None:
    ruled = RuledNoise(Noise(0, 0.0, VOCAB), [Ending()])
    assert ruled.row(0, lambda: [()]) is not None
    assert ruled.row(1, lambda: [(4,)]) is None
    assert ruled.row(1, lambda: [(4,), (5,)]) is not None
    tokens, logprobs = ruled.restrict(np.array([[1, 2], [1, 2]]), np.zeros((2, 2)))
    assert logprobs.tolist() == [[-np.inf, -np.inf], [0.0, 0.0]]
    assert tokens.tolist() == [[1, 2], [1, 2]]


def test_a_penalty_that_depends_on_the_scores_is_none_that_a_draft_can_add() -> None:
    assert not RepetitionPenalty(1.2, PROMPT, VOCAB).shifts
    assert all(rule.shifts for rule in rules())
