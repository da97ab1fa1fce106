"""The loop: the output is what the target alone generates, whatever the draft, the thresholds and the tree."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.placement import Placement
from runtime.bench import ROUNDING
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import Comparison, compare, generate, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.text.tokenizer import TextStream
from runtime.tree.shape import PAPER_TREE, TreeShape
from runtime.tree.tree import Tree
from s2d_trt.errors import S2DError

CHAINS = st.builds(TreeShape, depth=st.integers(0, 6), top_k=st.just(1))
SHAPES = st.one_of(
    CHAINS,
    st.builds(TreeShape, depth=st.integers(0, 4), top_k=st.integers(2, 6), nodes=st.integers(2, 40)),
    st.just(PAPER_TREE),
)
SHARES = st.integers(0, 11).map(lambda tenths: tenths / 10)
EXIT_POLICIES = st.one_of(
    st.builds(
        FixedThresholds, st.one_of(st.none(), st.tuples(SHARES, SHARES, SHARES)), st.sampled_from(["mean", "max"])
    ),
    st.builds(Adaptive, st.booleans()),
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.5]),
    top_k=st.sampled_from([0, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.1, 1.5, 0.9]),
    seed=st.integers(0, 2**64 - 1),
)
PROMPTS = st.one_of(
    st.lists(st.integers(1, 299), min_size=1, max_size=20),
    st.builds(lambda token, length: [token, 7] * length, st.integers(1, 299), st.sampled_from([31, 32, 60, 66])),
)
LOOKUPS = st.sampled_from([None, True, False])
SURE = Policy(FixedThresholds((0.0, 0.0, 0.0)))
WIDE = Policy(FixedThresholds((1.1, 1.1, 0.0)), PAPER_TREE)
WARM = Sampling(temperature=1.0, seed=3)


def assert_same(decoder: Decoder, request: Request, reference: Request) -> None:
    """Equal to the token, or apart only where rounding decides between two tokens."""
    comparison = compare(decoder, request, reference)
    assert comparison.identical or (comparison.margin is not None and comparison.margin < ROUNDING), comparison


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


# Where a text ends


@pytest.mark.parametrize("sampling", [Sampling(), WARM])
def test_max_new_tokens_holds_to_the_token(decoder: Decoder, sampling: Sampling) -> None:
    full = target_alone(decoder, [5, 9], Options(20, sampling)).tokens
    for length in range(1, 20):
        request = generate(decoder, [5, 9], Options(length, sampling, policy=WIDE))
        assert (request.tokens, request.finish_reason) == (full[:length], "length")


def test_no_token_is_drafted_that_could_not_be_kept(decoder: Decoder) -> None:
    request = generate(decoder, [5, 9], Options(2, policy=WIDE))
    assert request.stats.accept_lengths == [1]
    assert not request.stats.exit_counts


@pytest.mark.parametrize("sampling", [Sampling(), WARM])
def test_an_end_of_text_token_ends_the_text_even_in_the_middle_of_a_step(
    decoder: Decoder, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = target_alone(decoder, [5, 9], Options(30, sampling)).tokens
    tokenizer, beyond = decoder.target.tokenizer, 0
    for token in dict.fromkeys(full):
        monkeypatch.setattr(decoder.target, "tokenizer", replace(tokenizer, eos_token_ids=(298, token)))
        request = generate(decoder, [5, 9], Options(30, sampling, policy=WIDE))
        assert (request.tokens, request.finish_reason) == (full[: full.index(token) + 1], "stop")
        beyond += 1 + sum(request.stats.accept_lengths) - len(request.tokens)
    assert beyond > 0, "no step went on behind the end: the test shows nothing"


def stop_strings(text: str) -> list[str]:
    """Short pieces of a text, all of them whole characters."""
    pieces = (text[start : start + size] for start in range(len(text)) for size in (1, 2, 3))
    return [piece for piece in dict.fromkeys(pieces) if piece and "\ufffd" not in piece][:25]


@pytest.mark.parametrize("sampling", [Sampling(), WARM])
def test_a_stop_string_ends_the_text_even_in_the_middle_of_a_step(decoder: Decoder, sampling: Sampling) -> None:
    full = target_alone(decoder, [5, 9], Options(40, sampling))
    assert stop_strings(full.text)
    beyond = 0
    for stop in stop_strings(full.text):
        options = Options(40, sampling, (stop, "never"), WIDE)
        request = generate(decoder, [5, 9], options)
        texts = [decoder.tokenizer.decode(full.tokens[:count]) for count in range(len(full.tokens) + 1)]
        needed = next(count for count, text in enumerate(texts) if stop in text)
        assert request.text == full.text[: full.text.index(stop)]
        assert (request.tokens, request.finish_reason) == (full.tokens[:needed], "stop")
        beyond += 1 + sum(request.stats.accept_lengths) - len(request.tokens)
    assert beyond > 0, "no step went on behind the end: the test shows nothing"


def test_an_end_at_the_prefills_token_takes_no_step(decoder: Decoder) -> None:
    request = generate(decoder, [5, 9], Options(1))
    assert len(request.tokens) == 1
    assert (request.stats.steps, request.stats.mean_accepted_tokens) == (0, 0.0)


@settings(max_examples=15)
@given(prompt=PROMPTS, sampling=SAMPLINGS, shape=SHAPES, stop=st.lists(st.sampled_from("!>{\x14c"), max_size=2))
def test_the_steps_pieces_are_the_text(
    decoder: Decoder, prompt: list[int], sampling: Sampling, shape: TreeShape, stop: list[str]
) -> None:
    request = decoder.request(prompt, Options(25, sampling, tuple(stop), Policy(tree=shape)))
    steps = list(decoder.run(request))
    assert [token for step in steps for token in step.tokens] == request.tokens
    assert "".join(step.text for step in steps) == request.text
    assert all(len(step.pieces) == len(step.tokens) >= step.drafted for step in steps)


@pytest.mark.parametrize("length", [245, 255])
def test_the_end_of_the_targets_cache_finishes_with_capacity(decoder: Decoder, length: int) -> None:
    prompt, options = [5, 9, 8] * 82, Options(50, policy=WIDE)
    prompt = [*prompt, 3, 4, 5, 6, 7, 8, 9, 10, 11][:length]
    request, alone = generate(decoder, prompt, options), target_alone(decoder, prompt, options)
    assert request.finish_reason == alone.finish_reason == "capacity"
    assert len(request.tokens) == 256 - length
    assert_same(decoder, request, alone)


def test_max_new_tokens_that_just_fit_the_cache_finish_with_length(decoder: Decoder) -> None:
    request = generate(decoder, [5, 9] * 125, Options(6, policy=WIDE))
    assert (len(request.tokens), request.finish_reason) == (6, "length")


# Several texts, several targets


def several(decoder: Decoder, other: Decoder) -> list[tuple[Decoder, Request]]:
    """Requests of different kinds on two targets that share one draft."""
    made = [
        (decoder, [5, 9], Options(30, policy=WIDE)),
        (other, [7] * 70, Options(20, WARM)),
        (decoder, [1, 2, 3] * 30, Options(25, WARM, policy=SURE)),
        (decoder, [44], Options(25, policy=replace(SURE, tree=TreeShape(2, 3, 10)))),
        (other, [5, 9], Options(15, draft=False)),
    ]
    return [(its, its.request(prompt, options)) for its, prompt, options in made]


def take_turns(requests: Sequence[tuple[Decoder, Request]], cancel: dict[int, int] | None = None) -> None:
    """Run every request step by step in turn; ``cancel`` says after how many rounds which one is cancelled."""
    running = {index: decoder.run(request) for index, (decoder, request) in enumerate(requests)}
    rounds = 0
    while running:
        rounds += 1
        for index, steps in list(running.items()):
            if next(steps, None) is None:
                del running[index]
            elif cancel and cancel.get(index) == rounds:
                requests[index][1].cancel()


def test_requests_that_take_turns_give_what_each_gives_alone(decoder: Decoder, other_decoder: Decoder) -> None:
    alone = several(decoder, other_decoder)
    for its, request in alone:
        for _ in its.run(request):
            pass
    together = several(decoder, other_decoder)
    take_turns(together)
    for (_, expected), (_, request) in zip(alone, together, strict=True):
        assert (request.tokens, request.finish_reason) == (expected.tokens, expected.finish_reason)


def test_two_targets_share_one_draft_object(decoder: Decoder, other_decoder: Decoder) -> None:
    assert decoder.draft is other_decoder.draft
    assert decoder.target is not other_decoder.target


def test_a_cancelled_request_frees_its_sequences_and_leaves_the_others_intact(
    decoder: Decoder, other_decoder: Decoder
) -> None:
    alone, together = several(decoder, other_decoder), several(decoder, other_decoder)
    take_turns(alone)
    take_turns(together, cancel={0: 2})
    cancelled = together[0][1]
    assert cancelled.finish_reason == "cancelled"
    assert 0 < len(cancelled.tokens) < 30
    assert cancelled.tokens == alone[0][1].tokens[: len(cancelled.tokens)]
    for (_, expected), (_, request) in zip(alone[1:], together[1:], strict=True):
        assert (request.tokens, request.finish_reason) == (expected.tokens, expected.finish_reason)


@pytest.mark.parametrize("ending", ["cancelled", "closed", "finished"])
def test_sequences_are_free_when_a_request_is_over(target: Target, draft: SortedDraft, ending: str) -> None:
    decoder = Decoder(target, draft)
    request = decoder.request([5, 9], Options(6, policy=WIDE))
    steps = decoder.run(request)
    next(steps)
    assert request.sequence is not None
    assert request.drafting is not None
    held, drafting = request.sequence, request.drafting.sequences[0]
    if ending == "cancelled":
        request.cancel()
        assert not any(step.tokens for step in steps)
    elif ending == "closed":
        steps.close()  # type: ignore[attr-defined]
    else:
        list(steps)
    assert request.finish_reason == ("length" if ending == "finished" else "cancelled")
    leased, drafted = target.lease(), draft.empty_sequence()
    assert leased is held
    assert drafted is drafting
    target.release(leased)
    draft.release(drafted)


def test_a_request_cancelled_before_it_runs_does_nothing(decoder: Decoder) -> None:
    request = decoder.request([5, 9])
    request.cancel()
    assert list(decoder.run(request)) == []
    assert (request.tokens, request.finish_reason) == ([], "cancelled")


def test_the_last_step_of_a_cancelled_text_releases_what_was_held_back(decoder: Decoder) -> None:
    full = target_alone(decoder, [5, 9], Options(30, WARM)).text
    request = decoder.request([5, 9], Options(30, WARM, stop=(full[:2] + "\x00",)))
    steps = decoder.run(request)
    shown = [next(steps)]
    assert shown[0].text == ""
    request.cancel()
    shown += steps
    assert shown[-1].tokens == []
    assert "".join(step.text for step in shown) == request.text == decoder.tokenizer.decode(request.tokens)


def test_a_request_may_be_cancelled_from_another_thread(decoder: Decoder) -> None:
    request = decoder.request([5, 9], Options(200))
    steps = decoder.run(request)
    next(steps)
    other = threading.Thread(target=request.cancel)
    other.start()
    other.join()
    assert not any(step.tokens for step in steps)
    assert request.finish_reason == "cancelled"


# An engine that fails


def test_an_engines_error_ends_its_own_request_and_no_other(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Tree) -> None:
        raise RuntimeError("the engine is gone")

    decoder, options = Decoder(target, draft), Options(20, policy=WIDE)
    expected = generate(decoder, [5, 9], options).tokens
    failing, healthy = decoder.request([5, 9], options), decoder.request([5, 9], options)
    failed, going = decoder.run(failing), decoder.run(healthy)
    for steps in (failed, going, failed):
        next(steps)
    sequence = failing.sequence
    monkeypatch.setattr(sequence, "verify", broken)
    with pytest.raises(RuntimeError, match="the engine is gone"):
        next(failed)
    monkeypatch.delattr(sequence, "verify")
    assert failing.finish_reason == "error"
    assert failing.sequence is None
    assert failing.tokens == expected[: len(failing.tokens)]
    list(going)
    assert healthy.tokens == expected


def test_sequences_are_free_even_if_held_back_text_cannot_be_decoded(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: TextStream) -> None:
        raise RuntimeError("no text")

    decoder = Decoder(target, draft)
    request = decoder.request([5, 9], Options(20, policy=WIDE))
    steps = decoder.run(request)
    next(steps)
    assert request.drafting is not None
    held, drafting = request.sequence, request.drafting.sequences[0]
    monkeypatch.setattr(TextStream, "finish", broken)
    with pytest.raises(RuntimeError, match="no text"):
        steps.close()  # type: ignore[attr-defined]
    leased, drafted = target.lease(), draft.empty_sequence()
    assert leased is held
    assert drafted is drafting
    target.release(leased)
    draft.release(drafted)


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


# Preparation


def test_making_a_request_measures_and_checks_nothing(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("not now")

    decoder = Decoder(target, draft)
    monkeypatch.setattr("runtime.decoding.preparation.measured_costs", never)
    monkeypatch.setattr(target, "check_exact", never)
    decoder.request([5, 9])


def test_preparation_says_what_it_does_and_does_it_once(
    target_bundle: Path, draft_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for expected in (["checking", "measuring"], []):
        decoder, said = Decoder.open(target_bundle, draft_bundle, Placement(threads=1)), list[str]()
        decoder.prepare(Options(), said.append)
        decoder.prepare(Options(), said.append)
        assert [line.split()[0] for line in said] == expected
    decoder.prepare(Options(), said.append, measure=True)
    assert len(said) == 1


def test_a_target_with_a_short_cache_is_drafted_for(
    target_checkpoint: Path, draft: SortedDraft, tmp_path: Path
) -> None:
    from export import target as export_target

    out = tmp_path / "short.engine"
    export_target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--max-length", "64", "--no-parity"])
    decoder = Decoder(Target.open(out, Placement(threads=1)), draft)
    assert len(generate(decoder, [5, 9], Options(30)).tokens) == 30


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
