"""The cascade: whatever was skipped, accepted or cut back before, a proposal is that of the same text read at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.policy import DraftingPolicy
from runtime.drafting.proposal import Proposal
from runtime.drafting.sorted_draft import PREFILL_CHUNK, SCRATCH_ROWS, DraftSequence, SortedDraft
from runtime.sampling.noise import Noise
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.errors import CapacityError, OptionError

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


@dataclass
class Scripted(DraftingPolicy):
    """Takes a given exit's answer at each depth."""

    exits: Sequence[int]
    depth: int = 0

    def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], waiting: int) -> bool:
        assert len(paths) == len(children)
        taken = exit_index == self.exits[self.depth]
        self.depth += taken
        return taken


def children(tree: Tree, node: int) -> dict[int, float]:
    """Log-probability of each child's token after its parent."""
    own = np.flatnonzero(tree.parents == node)
    steps = tree.logprobs[own] - tree.logprobs[node]
    return dict(zip(tree.tokens[own].tolist(), steps.tolist(), strict=True))


def path_to(tree: Tree, node: int) -> list[int]:
    """Tokens behind the root, down to ``node``."""
    path: list[int] = []
    while node > 0:
        path.insert(0, int(tree.tokens[node]))
        node = int(tree.parents[node])
    return path


def candidates(draft: SortedDraft, text: Sequence[int], exit_index: int, noise: Noise, top_k: int) -> dict[int, float]:
    """What a slot of its own gives at an exit after reading ``text`` at once."""
    slot = DraftSequence(draft)
    slot.prefill(text)
    proposal = slot.propose(noise, Scripted([exit_index]), TreeShape(depth=0, top_k=top_k))
    return children(proposal.tree, 0)


def assert_same_candidates(found: dict[int, float], expected: dict[int, float]) -> None:
    """Equal up to rounding; where two candidates tie for the last place, either may stand there."""
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), abs=TOLERANCE)
    last = min(expected.values())
    for token, logprob in found.items():
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
        node = int(below[tree.logprobs[below].argmax()])
        drafted.append(int(tree.tokens[node]))
    same = 0
    while same < min(len(drafted), len(tokens)) and drafted[same] == tokens[same]:
        same += 1
    return same


def waiting(done: list[int], rows: int) -> list[int]:
    return [before - after for before, after in zip([rows, *done[:-1]], done, strict=True)]


@settings(max_examples=20)
@given(prompt=TEXTS, life=st.lists(rounds(), min_size=1, max_size=4), temperature=TEMPERATURES)
def test_every_proposal_of_a_texts_life_is_that_of_the_same_text_read_at_once(
    draft: SortedDraft, prompt: list[int], life: list[Round], temperature: float
) -> None:
    slot, text, noise = DraftSequence(draft), list(prompt), Noise(3, temperature, VOCAB)
    slot.prefill(text)
    for this in life:
        proposal = slot.propose(noise, Scripted(this.exits), this.shape)
        assert proposal.exits == this.exits
        assert_proposal_is_that_of_the_text(draft, text, proposal, noise, this.shape)
        tokens = accepted_tokens(proposal.tree, this)
        slot.enqueue(tokens)
        text += tokens
        if this.cut:
            text = text[: max(1, len(text) - this.cut)]
            slot.truncate(len(text))
            # What is cut off is replaced: the last row is to be read anew.
            text.append(this.own_token)
            slot.enqueue([this.own_token])
        if this.extra:
            slot.enqueue(this.extra)
            text += this.extra


@settings(max_examples=40)
@given(prompt=TEXTS, life=st.lists(rounds(), min_size=1, max_size=5))
def test_what_waits_before_a_segment_is_the_difference_of_the_committed_lengths(
    draft: SortedDraft, prompt: list[int], life: list[Round]
) -> None:
    slot, noise = DraftSequence(draft), Noise(0, 0.0, VOCAB)
    slot.enqueue(prompt)
    length, done = len(prompt), [0] * EXITS
    assert slot.waiting == [length, 0, 0]
    slot.truncate(0)
    slot.prefill(prompt)
    done = [length] * EXITS
    assert slot.waiting == [0, 0, 0]
    for this in life:
        proposal = slot.propose(noise, Scripted(this.exits), this.shape)
        for depth, answered in enumerate(this.exits):
            rows = length + depth * this.shape.top_k
            done = [rows if segment <= answered else before for segment, before in enumerate(done)]
        assert slot.waiting == waiting(done, rows)

        tokens = accepted_tokens(proposal.tree, this)
        in_place = length + rows_in_place(proposal.tree, this.shape, tokens)
        slot.enqueue(tokens)
        length += len(tokens)
        done = [min(before, in_place) for before in done]
        assert slot.committed == length
        assert slot.waiting == waiting(done, length)

        length = max(1, length - this.cut)
        slot.truncate(length)
        done = [min(before, length) for before in done]
        assert slot.waiting == waiting(done, length)
        slot.enqueue([this.own_token])
        length += 1
        assert slot.waiting == waiting(done, length)


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
    slot, noise = DraftSequence(draft), Noise(1, temperature, VOCAB)
    slot.prefill(text)
    proposal = slot.propose(noise, FixedThresholds(thresholds), shape)
    assert proposal.exits == [exit_index] * (shape.depth + 1)
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


@settings(max_examples=15)
@given(text=TEXTS, first=st.floats(0, 1), second=st.floats(0, 1), shape=SHAPES, rule=st.sampled_from(["mean", "max"]))
def test_thresholds_between_choose_the_first_exit_that_is_sure_enough(
    draft: SortedDraft, text: list[int], first: float, second: float, shape: TreeShape, rule: str
) -> None:
    slot, noise = DraftSequence(draft), Noise(0, 0.0, VOCAB)
    slot.prefill(text)
    seen: list[tuple[int, bool]] = []

    @dataclass(frozen=True)
    class Recording(FixedThresholds):
        def answers(self, exit_index: int, paths: Sequence[float], children: Sequence[float], waiting: int) -> bool:
            answer = FixedThresholds.answers(self, exit_index, paths, children, waiting)
            seen.append((exit_index, answer))
            return answer

    proposal = slot.propose(noise, Recording((first, second, 0.0), rule), shape)
    assert [index for index, answer in seen if answer] == proposal.exits
    asked = [index for index, _ in seen]
    assert asked == [index for answered in proposal.exits for index in range(answered + 1)]
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


@pytest.mark.parametrize("accepted", range(5))
def test_an_accepted_chain_stays_in_place_and_changes_no_proposal(draft: SortedDraft, accepted: int) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=3)
    slot = DraftSequence(draft)
    slot.prefill(text)
    chain = slot.propose(noise, Scripted([2, 0, 1, 2]), shape).tree
    tokens = [*chain.tokens[1 : 1 + accepted].tolist(), 7]
    slot.enqueue(tokens)
    # Only what was not drafted waits; of the four drafted tokens the last has no row yet.
    assert slot.waiting[0] == len(tokens) - min(accepted, 3)
    again = slot.propose(noise, Scripted([0, 1, 2, 0]), shape)
    assert_proposal_is_that_of_the_text(draft, text + tokens, again, noise, shape)


def test_a_wide_trees_row_is_not_taken_for_the_token_that_follows_in_its_place(draft: SortedDraft) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=2, top_k=3, nodes=100)
    slot = DraftSequence(draft)
    slot.prefill(text)
    tree = slot.propose(noise, Scripted([2, 1, 2]), shape).tree
    # Siblings stand side by side in the cache; the text goes on with the first and then, by chance, with the others.
    siblings = list(children(tree, 0))
    slot.enqueue(siblings)
    assert slot.waiting[0] == 2
    again = slot.propose(noise, Scripted([0, 2, 1]), shape)
    assert_proposal_is_that_of_the_text(draft, text + siblings, again, noise, shape)


def test_a_chains_row_behind_another_token_is_read_anew(draft: SortedDraft) -> None:
    text, noise, shape = [5, 9, 200, 31], Noise(0, 0.0, VOCAB), TreeShape(depth=3)
    slot = DraftSequence(draft)
    slot.prefill(text)
    drafted = slot.propose(noise, Scripted([2] * 4), shape).tree.tokens[1:].tolist()
    tokens = [(drafted[0] + 1) % VOCAB, drafted[1], drafted[2]]
    slot.enqueue(tokens)
    assert slot.waiting[0] == 3
    again = slot.propose(noise, Scripted([2] * 4), shape)
    assert_proposal_is_that_of_the_text(draft, text + tokens, again, noise, shape)


def test_two_slots_of_one_draft_do_not_disturb_each_other(draft: SortedDraft) -> None:
    texts, noise, shape = [[5, 9, 200], [8] * 70], Noise(0, 0.0, VOCAB), TreeShape(depth=2, top_k=3, nodes=100)
    slots = [draft.lease(), draft.lease()]
    for slot, text in zip(slots, texts, strict=True):
        slot.prefill(text)
    proposals = [slot.propose(noise, Scripted([0, 2, 1]), shape) for slot in slots]
    for slot, text, proposal in zip(slots, texts, proposals, strict=True):
        assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)
        draft.release(slot)


def test_a_released_slot_serves_the_next_text_as_a_new_one_would(draft: SortedDraft) -> None:
    noise, shape = Noise(0, 0.0, VOCAB), TreeShape(depth=1)
    used = draft.lease()
    used.prefill([3] * 100)
    used.propose(noise, Scripted([0, 2]), shape)
    draft.release(used)
    again = draft.lease()
    assert again is used
    assert (again.committed, again.waiting, again.clock.seconds) == (0, [0, 0, 0], 0.0)
    again.prefill([6, 7])
    proposal = again.propose(noise, Scripted([1, 2]), shape)
    assert_proposal_is_that_of_the_text(draft, [6, 7], proposal, noise, shape)
    draft.release(again)


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
    slot = DraftSequence(draft)
    slot.prefill(text)
    proposal = slot.propose(Noise(seed, 1.0, known), FixedThresholds((0.3, 0.3, 0.0)), shape)
    assert proposal.tree.tokens[1:].max() < known
    assert np.isfinite(proposal.tree.logprobs).all()


def test_a_text_beyond_the_capacity_is_refused(draft: SortedDraft) -> None:
    slot = DraftSequence(draft)
    with pytest.raises(CapacityError, match="257 tokens exceed the draft's capacity of 256"):
        slot.prefill([1] * 257)
    slot.prefill([1] * 255)
    slot.enqueue([1])
    with pytest.raises(CapacityError):
        slot.enqueue([1])


def test_drafting_works_up_to_the_last_position(draft: SortedDraft) -> None:
    text, noise = [1, 2, 3, 4] * 63, Noise(0, 0.0, VOCAB)
    slot, shape = DraftSequence(draft), TreeShape(depth=3, top_k=4, nodes=200)
    slot.prefill(text)
    proposal = slot.propose(noise, FixedThresholds((0.5, 0.5, 0.0)), shape)
    assert len(text) + shape.depth + 1 == draft.max_length
    assert_proposal_is_that_of_the_text(draft, text, proposal, noise, shape)


def test_a_tree_as_wide_as_the_scratch_rows_can_be_drafted(draft: SortedDraft) -> None:
    slot, shape = DraftSequence(draft), TreeShape(depth=16, top_k=16, nodes=60)
    assert shape.draft_rows == SCRATCH_ROWS
    draft.check_shape(shape)
    slot.prefill([1] * 100)
    assert len(slot.propose(Noise(0, 0.0, VOCAB), FixedThresholds((0.5, 0.5, 0.0)), shape).tree) == 60


def test_a_tree_wider_than_the_heads_candidates_is_refused(draft: SortedDraft) -> None:
    with pytest.raises(OptionError, match="top-k 17 is above the 16 candidates"):
        draft.check_shape(TreeShape(top_k=17))


def test_a_tree_with_more_rows_than_the_scratch_holds_is_refused(draft: SortedDraft) -> None:
    with pytest.raises(OptionError, match="takes 272 draft rows"):
        draft.check_shape(TreeShape(depth=17, top_k=16))
