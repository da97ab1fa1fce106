"""Proposals of the sorted draft, and what they should be: those of a new sequence that reads the same text at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import strategies as st

from runtime.backends import PREFILL_CHUNK
from runtime.drafting.calls import Calls, run_together
from runtime.drafting.fixed import FixedBudget
from runtime.drafting.policy import StepBudget
from runtime.drafting.proposal import Proposal
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.sampling.noise import Noise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree

VOCAB = 300
TOLERANCE = 1e-4
EXITS = 3
SHAPES = st.one_of(
    st.builds(TreeShape, depth=st.integers(0, 4), top_k=st.just(1)),
    st.builds(TreeShape, depth=st.integers(0, 3), top_k=st.integers(2, 4), nodes=st.just(200)),
)
TEXTS = st.builds(
    lambda seed, length: np.random.default_rng(seed).integers(0, VOCAB, length).tolist(),
    st.integers(0, 99),
    st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1])),
)
TEMPERATURES = st.sampled_from([0.0, 0.8])

Result = TypeVar("Result")


@dataclass
class Scripted(StepBudget):
    """Takes a given exit's answer at each depth."""

    exits: Sequence[int]
    depth: int = 0

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
        """Take the answer of the exit that the script names."""
        assert len(paths) == len(children)
        taken = exit_index == self.exits[self.depth]
        self.depth += taken
        return taken


def fixed(*thresholds: float) -> FixedBudget:
    """A budget with one threshold for each exit."""
    return FixedBudget(thresholds, "mean")


def alone(text: Calls[Result]) -> Result:
    """What one text's drafting returns, its calls run by themselves."""
    return run_together([text])[0]


def reading(draft: SortedDraft, text: Sequence[int]) -> DraftSequence:
    """A new sequence, all of whose segments have read ``text``."""
    sequence = DraftSequence(draft)
    sequence.prefill(text)
    return sequence


def propose(
    sequence: DraftSequence, root: int, noise: Noise, budget: StepBudget, shape: TreeShape, room: int = 999
) -> Proposal:
    """What a step drafts below ``root``, the text's last token, not cut."""
    sequence.shape, builder = shape, TreeBuilder(root, shape)
    exits = alone(sequence.propose(builder, budget, noise, room))
    return Proposal(builder.finish(), exits)


def children(tree: Tree, node: int) -> dict[int, float]:
    """Log-probability of each child's token after its parent."""
    own = np.flatnonzero(tree.parents == node).tolist()
    return {int(tree.tokens[child]): tree.logprobs[child] - tree.logprobs[node] for child in own}


def path_to(tree: Tree, node: int) -> list[int]:
    """Tokens behind the root, down to ``node``."""
    path: list[int] = []
    while node > 0:
        path.insert(0, int(tree.tokens[node]))
        node = int(tree.parents[node])
    return path


def candidates(draft: SortedDraft, text: Sequence[int], exit_index: int, noise: Noise, top_k: int) -> dict[int, float]:
    """What a new sequence gives at an exit after reading ``text`` at once."""
    proposal = propose(reading(draft, text), text[-1], noise, Scripted([exit_index]), TreeShape(depth=0, top_k=top_k))
    return children(proposal.tree, 0)


def assert_same_candidates(given: dict[int, float], expected: dict[int, float]) -> None:
    """Equal up to rounding; where two candidates tie for the last place, either may be given."""
    assert sorted(given.values()) == pytest.approx(sorted(expected.values()), abs=TOLERANCE)
    last = min(expected.values())
    for token, logprob in given.items():
        assert logprob == pytest.approx(expected.get(token, last), abs=TOLERANCE)


def assert_proposal_is_that_of_the_text(
    draft: SortedDraft, text: list[int], proposal: Proposal, noise: Noise, shape: TreeShape
) -> None:
    """Every node that was expanded has the children that its linear path gives at the exit that answered."""
    tree = proposal.tree
    assert tree.tokens[0] == text[-1]
    expanded = sorted({int(parent) for parent in tree.parents[1:]})
    assert len(expanded) == 1 + shape.depth * shape.top_k
    for node in expanded:
        exit_index = proposal.exits[int(tree.depths[node])]
        reference = candidates(draft, text + path_to(tree, node), exit_index, noise, shape.top_k)
        assert_same_candidates(children(tree, node), reference)
