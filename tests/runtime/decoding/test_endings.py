"""Where a text ends: stop tokens, stop strings, max_new_tokens and the cache hold to the token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import generate, target_alone
from runtime.sampling.options import Sampling
from runtime.tree.shape import TreeShape
from tests.runtime.decoding.cases import PROMPTS, SAMPLINGS, SHAPES, WARM, WIDE, assert_same


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
