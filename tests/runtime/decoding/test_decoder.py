"""The loop: the output is what the target alone generates, whatever the draft, the thresholds and the tree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import Comparison, compare, generate, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from s2d_trt.errors import S2DError
from tests.runtime.decoding.cases import CHAINS, EXIT_POLICIES, LOOKUPS, PROMPTS, SAMPLINGS, SHAPES, WIDE, assert_same


@settings(max_examples=25)
@given(
    prompt=PROMPTS,
    sampling=SAMPLINGS,
    policy=st.builds(Policy, EXIT_POLICIES, SHAPES, LOOKUPS),
    length=st.integers(1, 30),
    agreeing=st.booleans(),
)
def test_the_tokens_are_those_of_the_target_alone(
    decoder: Decoder,
    other_decoder: Decoder,
    prompt: list[int],
    sampling: Sampling,
    policy: Policy,
    length: int,
    agreeing: bool,
) -> None:
    chosen = decoder if agreeing else other_decoder
    options = Options(length, sampling, policy=policy)
    assert_same(chosen, generate(chosen, prompt, options), target_alone(chosen, prompt, options))


@settings(max_examples=12)
@given(
    prompt=PROMPTS, sampling=SAMPLINGS, policy=st.builds(Policy, EXIT_POLICIES, CHAINS, LOOKUPS), agreeing=st.booleans()
)
def test_exact_chains_are_bit_identical_to_the_target_alone(
    decoder: Decoder, other_decoder: Decoder, prompt: list[int], sampling: Sampling, policy: Policy, agreeing: bool
) -> None:
    chosen = decoder if agreeing else other_decoder
    options = Options(25, sampling, policy=policy, exact=True)
    request, reference = generate(chosen, prompt, options), target_alone(chosen, prompt, options, exact=True)
    assert request.exact
    assert compare(chosen, request, reference) == Comparison(identical=True, bits=True)


@settings(max_examples=15)
@given(
    prompt=PROMPTS,
    sampling=SAMPLINGS,
    policy=st.builds(Policy, EXIT_POLICIES, SHAPES, LOOKUPS),
    length=st.integers(1, 25),
)
def test_accept_lengths_count_every_token_but_the_prefills(
    decoder: Decoder, prompt: list[int], sampling: Sampling, policy: Policy, length: int
) -> None:
    request = generate(decoder, prompt, Options(length, sampling, policy=policy))
    lengths = request.stats.accept_lengths
    assert 1 + sum(lengths[:-1]) <= len(request.tokens) <= 1 + sum(lengths)
    if request.finish_reason == "length":
        assert 1 + sum(lengths) == len(request.tokens)
    assert request.stats.steps == len(lengths)
    assert policy.tree is not None
    assert all(1 <= accepted <= policy.tree.verify_rows(LONGEST_DRAFT) for accepted in lengths)


def test_a_draft_that_agrees_saves_steps(decoder: Decoder) -> None:
    request = generate(decoder, [5, 9], Options(40, policy=WIDE))
    assert request.stats.mean_accepted_tokens > 2
    assert request.stats.steps < 20
    assert sum(request.stats.exit_counts.values()) >= request.stats.steps


def test_a_seed_gives_the_same_text_and_another_seed_another(decoder: Decoder) -> None:
    first, again, other = (
        generate(decoder, [5, 9], Options(20, Sampling(temperature=1.0, seed=seed))) for seed in (1, 1, 2)
    )
    assert first.tokens == again.tokens != other.tokens


def test_a_drawn_seed_is_reported_and_repeats_the_text(decoder: Decoder) -> None:
    first = generate(decoder, [5, 9], Options(20, Sampling(temperature=1.0)))
    again = generate(decoder, [5, 9], Options(20, Sampling(temperature=1.0, seed=first.seed)))
    assert again.tokens == first.tokens
    assert decoder.request([5]).seed != decoder.request([5]).seed


def test_a_text_prompt_is_tokenized_by_the_targets_tokenizer(decoder: Decoder) -> None:
    assert decoder.request("the draft").prompt == decoder.tokenizer.encode("the draft").ids


# Exactness


def test_a_cpu_decodes_exactly_unless_a_tree_is_asked_for(decoder: Decoder) -> None:
    asked = [Options(4), Options(4, exact=False), Options(4, policy=WIDE), Options(4, draft=False)]
    assert [generate(decoder, [5, 9], options).exact for options in asked] == [True, False, False, True]


def test_where_exactness_cannot_be_promised_it_is_the_default_no_more_and_an_error_when_asked_for(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inexact(*_: object) -> None:
        raise S2DError("other bits")

    monkeypatch.setattr(target, "check_exact", inexact)
    decoder = Decoder(target, draft)
    assert not generate(decoder, [5, 9], Options(4)).exact
    with pytest.raises(S2DError, match="other bits"):
        generate(decoder, [5, 9], Options(4, exact=True))


# N-gram lookup


def test_ngram_lookup_drafts_without_a_draft_model(target: Target) -> None:
    decoder, prompt = Decoder(target), [5, 9, 8, 7] * 12
    request = generate(decoder, prompt, Options(40))
    assert compare(decoder, request, target_alone(decoder, prompt, Options(40))).bits
    assert request.stats.drafted_at_depth
    assert not request.stats.exit_counts


# A draft whose cache ends before the target's


def test_when_the_drafts_cache_ends_decoding_goes_on_without_drafting(target: Target, short_draft: SortedDraft) -> None:
    decoder, options = Decoder(target, short_draft), Options(60, policy=WIDE)
    request = generate(decoder, [5, 9] * 20, options)
    assert_same(decoder, request, target_alone(decoder, [5, 9] * 20, options))
    assert len(request.tokens) == 60
    lengths = request.stats.accept_lengths
    assert max(lengths[:8]) > 1
    # 40 tokens of prompt: from 24 new tokens on the text is longer than the draft's 64 positions.
    written, behind = 1, []
    for accepted in lengths:
        if written >= 24:
            behind.append(accepted)
        written += accepted
    assert behind
    assert set(behind) == {1}


@pytest.mark.parametrize("length", [63, 64, 65, 100])
def test_a_prompt_about_as_long_as_the_drafts_cache_is_answered(
    target: Target, short_draft: SortedDraft, length: int
) -> None:
    decoder, options = Decoder(target, short_draft), Options(6)
    request = generate(decoder, [5] * length, options)
    assert_same(decoder, request, target_alone(decoder, [5] * length, options))
    assert bool(request.stats.exit_counts) == (length < 63)


def test_a_decoder_without_a_draft_gives_the_targets_text(decoder: Decoder, target: Target) -> None:
    request = generate(Decoder(target), [5, 9], Options(12))
    assert request.tokens == target_alone(decoder, [5, 9], Options(12)).tokens
