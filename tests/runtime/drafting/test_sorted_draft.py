"""The sorted draft as a drafter: its exits, its candidates, and the text that it follows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.placement import Placement
from runtime.drafting.adaptive import CostAware
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.fixed import FixedBudget
from runtime.drafting.learned import Learned
from runtime.drafting.policy import Prospect, StepBudget
from runtime.drafting.proposal import Proposal
from runtime.drafting.sorted_draft import SCRATCH_ROWS, SortedDraft
from runtime.sampling.noise import Noise
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from s2d_trt.errors import CapacityError, OptionError
from tests.conftest import llama_config, random_model, save_checkpoint
from tests.runtime.drafting.proposals import (
    SHAPES,
    TEMPERATURES,
    TEXTS,
    TOLERANCE,
    VOCAB,
    Scripted,
    alone,
    assert_proposal_is_that_of_the_text,
    assert_same_candidates,
    candidates,
    children,
    fixed,
    propose,
    reading,
)


@settings(max_examples=12)
@given(text=TEXTS, shape=SHAPES, temperature=TEMPERATURES)
@pytest.mark.parametrize(("thresholds", "exit_index"), [((1.1, 1.1, 0.0), 2), ((0.0, 0.0, 0.0), 0)])
def test_thresholds_above_1_give_the_full_models_proposal_and_thresholds_0_the_first_exits(
    draft: SortedDraft,
    thresholds: tuple[float, ...],
    exit_index: int,
    text: list[int],
    shape: TreeShape,
    temperature: float,
) -> None:
    sequence, noise = reading(draft, text), Noise(1, temperature, VOCAB)
    proposal = propose(sequence, text[-1], noise, fixed(*thresholds), shape)
    assert proposal.exits == [exit_index] * (shape.depth + 1)
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


@settings(max_examples=15)
@given(text=TEXTS, first=st.floats(0, 1), second=st.floats(0, 1), shape=SHAPES, rule=st.sampled_from(["mean", "max"]))
def test_thresholds_between_choose_the_first_exit_that_is_sure_enough(
    draft: SortedDraft, text: list[int], first: float, second: float, shape: TreeShape, rule: str
) -> None:
    sequence, noise = reading(draft, text), Noise(0, 0.0, VOCAB)
    seen: list[tuple[int, bool]] = []

    @dataclass(frozen=True)
    class Recording(FixedBudget):
        def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], backlog: int) -> bool:
            answer = FixedBudget.answers(self, exit_index, paths, children, backlog)
            seen.append((exit_index, answer))
            return answer

    proposal = propose(sequence, text[-1], noise, Recording((first, second, 0.0), rule), shape)
    assert [index for index, answer in seen if answer] == proposal.exits
    asked = [index for index, _ in seen]
    assert asked == [index for answered in proposal.exits for index in range(answered + 1)]
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


def test_two_sequences_of_one_draft_do_not_disturb_each_other(draft: SortedDraft) -> None:
    texts, noise, shape = [[5, 9, 200], [8] * 70], Noise(0, 0.0, VOCAB), TreeShape(depth=2, top_k=3, nodes=100)
    sequences = [reading(draft, text) for text in texts]
    proposals = [
        propose(sequence, text[-1], noise, Scripted([0, 2, 1]), shape)
        for sequence, text in zip(sequences, texts, strict=True)
    ]
    for text, proposal in zip(texts, proposals, strict=True):
        assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


# A sequence as a drafter: what a step may draft, and following the text


def test_a_leased_prompt_is_backlog_until_the_first_draft(draft: SortedDraft) -> None:
    text, noise, shape = [5, 9, 200], Noise(0, 0.0, VOCAB), TreeShape(depth=1, top_k=2)
    sequence = draft.lease(text, shape)
    assert sequence.prospect(9) == Prospect(backlog=3)
    builder = TreeBuilder(text[-1], shape)
    assert alone(sequence.propose(builder, Scripted([1, 2]), noise, 9)) == [1, 2]
    assert_proposal_is_that_of_the_text(draft, text, Proposal(builder.finish(), [1, 2]), noise, shape)
    sequence.release()


def test_a_budget_without_drafting_leaves_the_tree_and_the_segments_as_they_are(draft: SortedDraft) -> None:
    @dataclass(frozen=True)
    class Nothing(StepBudget):
        drafts: bool = False

    sequence = reading(draft, [5, 9, 200])
    proposal = propose(sequence, 200, Noise(0, 0.0, VOCAB), Nothing(), TreeShape())
    assert (len(proposal.tree), proposal.exits) == (1, [])
    assert sequence.backlogs == [0, 0, 0]


@pytest.mark.parametrize("room", range(5))
def test_no_more_levels_are_drafted_than_the_step_may_add(draft: SortedDraft, room: int) -> None:
    sequence = reading(draft, [5, 9, 200])
    proposal = propose(sequence, 200, Noise(0, 0.0, VOCAB), fixed(0.0, 0.0, 0.0), TreeShape(depth=2, top_k=2), room)
    assert max(proposal.tree.depths) == len(proposal.exits) == min(room, 3)
    assert (sequence.prospect(room).backlog is None) == (room == 0)


def test_growth_ends_where_the_budget_ends_it(draft: SortedDraft) -> None:
    class TwoLevels(StepBudget):
        def continues(self, paths: Sequence[float]) -> bool:
            return paths[0] > -1e-3 or len(paths) == 1

    shape = TreeShape(depth=4, top_k=2)
    proposal = propose(reading(draft, [5, 9, 200]), 200, Noise(0, 0.0, VOCAB), TwoLevels(), shape)
    assert proposal.exits == [2]


def test_candidates_are_corrected_by_the_budget_and_keep_the_drafts_own_log_probability(draft: SortedDraft) -> None:
    class Halving(StepBudget):
        def calibrated(self, exit_index: int, logprobs: list[list[float]]) -> list[list[float]]:
            return [[logprob / 2 for logprob in row] for row in logprobs]

    text, noise, shape = [5, 9, 200], Noise(0, 0.0, VOCAB), TreeShape(depth=0, top_k=4)
    own = propose(reading(draft, text), 200, noise, StepBudget(), shape).tree
    halved = propose(reading(draft, text), 200, noise, Halving(), shape).tree
    assert halved.logprobs == [logprob / 2 for logprob in own.logprobs]
    assert halved.draft_logprobs[1:] == own.draft_logprobs[1:] == own.logprobs[1:]
    assert halved.ranks[1:] == [0, 1, 2, 3]


def test_a_sequence_follows_the_text_until_it_is_full(draft: SortedDraft) -> None:
    sequence = reading(draft, [1] * 253)
    assert sequence.follow([2, 3])
    assert sequence.prospect(9).backlog == 2
    assert sequence.follow([4])
    assert sequence.prospect(9).backlog is None  # no position is left for a drafted token
    assert not sequence.follow([5])


def test_a_text_that_the_draft_cannot_hold_is_not_taken(draft: SortedDraft) -> None:
    assert draft.lease([1] * 256, TreeShape()) is None
    assert draft.lease([1, VOCAB], TreeShape()) is None
    assert not reading(draft, [1]).follow([VOCAB])


def test_a_released_sequence_serves_the_next_text_as_a_new_one_would(draft: SortedDraft) -> None:
    noise, shape = Noise(0, 0.0, VOCAB), TreeShape(depth=1)
    used = draft.lease([3] * 100, shape)
    propose(used, 3, noise, Scripted([0, 2]), shape)
    used.release()
    again = draft.lease([6, 7], shape)
    assert again is used
    assert (again.committed, again.backlogs) == (2, [2, 0, 0])
    proposal = propose(again, 7, noise, Scripted([1, 2]), shape)
    assert_proposal_is_that_of_the_text(draft, [6, 7], proposal, noise, shape)
    again.release()


def test_a_text_that_overflowed_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    import torch

    from export import build

    poison, model = 7, random_model(llama_config(num_hidden_layers=2), seed=5)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = 0.0
        embedding[poison] = torch.eye(embedding.shape[1])[0]
        model.model.layers[0].self_attn.v_proj.weight[:, 0] = 3e38
    checkpoint = save_checkpoint(model, tmp_path / "checkpoint", (1, 2))
    build.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "draft.engine"), "--no-parity"])
    draft, noise = SortedDraft.open(tmp_path / "draft.engine", Placement(threads=1)), Noise(0, 0.0, VOCAB)

    costs = Costs((1.0,) * len(WIDTHS), ((1.0,) * len(WIDTHS),) * 2, (1.0,) * len(WIDTHS))
    budgets = {"fixed": lambda: fixed(2.0, 0.0), "adaptive": lambda: CostAware(Learned(2, costs)).plan(Prospect(1))}

    def drafted(tokens: list[int], policy: str) -> dict[int, float]:
        sequence, builder = draft.lease(tokens, TreeShape()), TreeBuilder(tokens[-1], TreeShape())
        alone(sequence.propose(builder, budgets[policy](), noise, 1))
        sequence.release()
        return children(builder.finish(), 0)

    for policy in budgets:
        expected = drafted([3, 5, 9], policy)
        assert drafted([3, 5, 9, poison, poison], policy) == {}
        assert drafted([3, 5, 9], policy) == expected != {}


def test_candidates_at_every_exit_are_those_of_the_checkpoint(draft: SortedDraft, draft_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(draft_checkpoint, dtype=torch.float32)
    text, noise = [5, 9, 200, 31, 4], Noise(0, 0.0, VOCAB)
    layers = model.model.layers
    for exit_index, layer_count in enumerate(draft.exits):
        model.model.layers = layers[:layer_count]
        with torch.no_grad():
            logprobs = model(torch.tensor([text])).logits[0, -1].log_softmax(-1)
        best = logprobs.topk(4)
        expected = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        assert_same_candidates(candidates(draft, text, exit_index, noise, 4), expected)


def test_drafted_log_probabilities_are_of_logits_plus_noise(draft: SortedDraft) -> None:
    text, warm = [5, 9, 200, 31, 4], Noise(2, 1.0, VOCAB)
    plain = candidates(draft, text, 2, Noise(0, 0.0, VOCAB), 16)
    noisy = candidates(draft, text, 2, warm, 16)
    row = warm.row(len(text))
    both = sorted(set(plain) & set(noisy))
    assert len(both) > 1
    # Both are shifted by their own normaliser: differences within one distribution remain.
    for a, b in itertools.pairwise(both):
        expected = plain[a] + row[a] - plain[b] - row[b]
        assert noisy[a] - noisy[b] == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=15)
@given(text=TEXTS, known=st.integers(16, 100), shape=SHAPES, seed=st.integers(0, 99))
def test_ids_beyond_the_targets_vocabulary_are_never_drafted(
    draft: SortedDraft, text: list[int], known: int, shape: TreeShape, seed: int
) -> None:
    sequence = reading(draft, text)
    proposal = propose(sequence, text[-1], Noise(seed, 1.0, known), fixed(0.3, 0.3, 0.0), shape)
    assert proposal.tree.tokens[1:].max() < known
    assert np.isfinite(proposal.tree.logprobs).all()


def test_a_text_beyond_the_capacity_is_refused(draft: SortedDraft) -> None:
    with pytest.raises(CapacityError, match="257 tokens exceed the draft's capacity of 256"):
        reading(draft, [1] * 257)
    sequence = reading(draft, [1] * 255)
    sequence.enqueue([1])
    with pytest.raises(CapacityError):
        sequence.enqueue([1])


def test_drafting_works_up_to_the_last_position(draft: SortedDraft) -> None:
    text, noise = [1, 2, 3, 4] * 63, Noise(0, 0.0, VOCAB)
    sequence, shape = reading(draft, text), TreeShape(depth=3, top_k=4, nodes=200)
    proposal = propose(sequence, text[-1], noise, fixed(0.5, 0.5, 0.0), shape)
    assert len(text) + shape.depth + 1 == draft.max_length
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


def test_a_tree_as_wide_as_the_scratch_rows_can_be_drafted(draft: SortedDraft) -> None:
    sequence, shape = reading(draft, [1] * 100), TreeShape(depth=16, top_k=16, nodes=60)
    assert shape.draft_rows == SCRATCH_ROWS
    draft.check_shape(shape)
    assert len(propose(sequence, 1, Noise(0, 0.0, VOCAB), fixed(0.5, 0.5, 0.0), shape).tree) == 60


def test_a_tree_wider_than_the_heads_candidates_is_refused(draft: SortedDraft) -> None:
    with pytest.raises(OptionError, match="top-k 17 is above the 16 candidates"):
        draft.check_shape(TreeShape(top_k=17))


def test_a_tree_with_more_rows_than_the_scratch_holds_is_refused(draft: SortedDraft) -> None:
    with pytest.raises(OptionError, match="takes 272 draft rows"):
        draft.check_shape(TreeShape(depth=17, top_k=16))
