"""Text under rules: whatever is drafted and whoever else is served, it is the target's own text under these rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import generate, same_bits, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError
from tests.runtime.decoding.cases import CHAINS, EXIT_POLICIES, LOOKUPS, PROMPTS, WARM, WIDE, assert_same

pytestmark = pytest.mark.usefixtures("known_costs")

NEW = 24
LONG = Policy(FixedThresholds((0.0, 0.0, 0.0)), TreeShape(depth=6), lookup=True)


def no_token_twice(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """A processor: the latest token is not repeated, and tokens are less likely the later they come."""
    scores = scores - np.float32(0.001 * len(tokens))
    scores[tokens[-1]] = -np.inf
    return scores


def sampling(**changes: Any) -> dict[str, Any]:
    return {"sampling": Sampling(**changes)}


FEATURES: dict[str, dict[str, Any]] = {
    "logit_bias": sampling(logit_bias={7: 4.0, 44: -100.0, 3: 1.5}),
    "frequency": sampling(frequency_penalty=1.2, presence_penalty=0.3),
    "repetition and presence": sampling(repetition_penalty=1.3, presence_penalty=-0.5, logit_bias={9: 2.0}),
    "bad words": sampling(bad_words=((5, 9), (7,), "e", " the")),
    "min tokens": {"min_tokens": 9, "stop_token_ids": tuple(range(0, 300, 3))},
    "ignore eos": {"ignore_eos": True, **sampling(logit_bias={0: 9.0})},
    "stop ids": {"stop_token_ids": tuple(range(0, 300, 11))},
    "processors": {"processors": (no_token_twice,)},
    "logprobs": {"logprobs": 3},
    "all": {
        "processors": (no_token_twice,),
        "min_tokens": 5,
        "stop_token_ids": (17, 3, 200),
        "logprobs": 2,
        "logprobs_mode": "processed",
        **sampling(frequency_penalty=0.6, logit_bias={8: 3.0}, bad_words=((11,), (8, 8)), top_k=50),
    },
}


def options_of(feature: str, temperature: float, **changes: Any) -> Options:
    asked = FEATURES[feature]
    chosen = replace(asked.get("sampling", Sampling()), temperature=temperature, seed=5)
    return Options(NEW, **{**asked, "sampling": chosen, **changes})


def logprobs(request: Request) -> list[Any]:
    return request.chooser.logprobs[: len(request.tokens)]


@pytest.mark.parametrize("feature", FEATURES)
def test_exact_texts_are_bit_identical_to_the_target_alone(
    decoder: Decoder, other_decoder: Decoder, feature: str
) -> None:
    drafted = Counter[str]()

    @settings(max_examples=6)
    @given(
        prompt=PROMPTS,
        temperature=st.sampled_from([0.0, 1.0]),
        policy=st.one_of(st.just(LONG), st.builds(Policy, EXIT_POLICIES, CHAINS, LOOKUPS)),
        agreeing=st.booleans(),
    )
    def agrees(prompt: list[int], temperature: float, policy: Policy, agreeing: bool) -> None:
        chosen = decoder if agreeing else other_decoder
        options = options_of(feature, temperature, policy=policy, exact=True)
        request, alone = generate(chosen, prompt, options), target_alone(chosen, prompt, options, exact=True)
        assert request.exact
        assert same_bits(request, alone)
        assert request.text == alone.text
        assert logprobs(request) == logprobs(alone)
        drafted["tokens"] += len(request.tokens) - 1 - request.stats.steps

    agrees()
    assert drafted["tokens"] > 0, "nothing was accepted: the test shows nothing"


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_trees_give_the_text_of_the_target_alone(decoder: Decoder, feature: str, temperature: float) -> None:
    for prompt in ([5, 9], [44, 3, 8] * 9):
        options = options_of(feature, temperature, policy=WIDE)
        assert_same(decoder, generate(decoder, prompt, options), target_alone(decoder, prompt, options))


def test_whoever_else_is_served_scores_and_log_probabilities_are_the_same(decoder: Decoder) -> None:
    asked = [
        (prompt, options_of(feature, temperature, prompt_logprobs=2))
        for feature in FEATURES
        for prompt, temperature in (([5, 9, 8], 0.0), ([7] * 40, 1.0))
    ]
    requests = [decoder.request(*each) for each in asked]
    scheduler = Scheduler(5, CacheMemory(prefix_bytes=2**20))
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        scheduler.step()
    for (prompt, options), request in zip(asked, requests, strict=True):
        alone = target_alone(decoder, prompt, options, exact=True)
        assert same_bits(request, alone)
        assert logprobs(request) == logprobs(alone)
        assert request.prompt_logprobs == alone.prompt_logprobs


# What each rule promises


def test_a_biased_token_is_chosen_and_a_banned_one_never(decoder: Decoder) -> None:
    assert generate(decoder, [5, 9], Options(9, Sampling(logit_bias={77: 100.0}))).tokens == [77] * 9
    plain = generate(decoder, [5, 9], Options(NEW)).tokens
    banned = Sampling(logit_bias=dict.fromkeys(plain, -100.0))
    assert not set(plain) & set(generate(decoder, [5, 9], Options(NEW, banned)).tokens)


def test_a_high_frequency_penalty_ends_repetition(decoder: Decoder) -> None:
    plain = Counter(generate(decoder, [7] * 20, Options(40)).tokens)
    penalised = Counter(generate(decoder, [7] * 20, Options(40, Sampling(frequency_penalty=2.0))).tokens)
    assert max(penalised.values()) < max(plain.values())


def test_bad_words_do_not_appear(decoder: Decoder) -> None:
    plain = generate(decoder, [5, 9], Options(NEW)).tokens
    for first, second in pairwise(plain):
        tokens = generate(decoder, [5, 9], Options(NEW, Sampling(bad_words=((first, second),)), policy=LONG)).tokens
        assert (first, second) not in set(pairwise(tokens))


def test_a_bad_word_may_begin_in_the_prompt(decoder: Decoder) -> None:
    first = generate(decoder, [5, 9], Options(1)).tokens[0]
    assert generate(decoder, [5, 9], Options(1, Sampling(bad_words=((5, 9, first),)))).tokens != [first]


def test_a_bad_word_given_as_text_stands_for_its_tokens(decoder: Decoder) -> None:
    banned = [tuple(decoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in ("the", " the")]
    asked = [Options(NEW, replace(WARM, bad_words=words)) for words in (("the",), tuple(banned))]
    assert generate(decoder, [5, 9], asked[0]).tokens == generate(decoder, [5, 9], asked[1]).tokens


@pytest.mark.parametrize("least", [0, 1, 7, NEW])
def test_no_stop_token_comes_before_min_tokens(decoder: Decoder, least: int) -> None:
    stops = tuple(generate(decoder, [5, 9], Options(NEW)).tokens)
    request = generate(decoder, [5, 9], Options(NEW, min_tokens=least, stop_token_ids=stops))
    assert not set(request.tokens[:least]) & {*stops, 0}
    assert len(request.tokens) == NEW or request.tokens[-1] in {*stops, 0}
    assert len(request.tokens) > least or least == NEW


def test_a_stop_string_before_min_tokens_is_passed_over(decoder: Decoder) -> None:
    full = generate(decoder, [5, 9], Options(40))
    texts = [decoder.tokenizer.decode(full.tokens[:count]) for count in range(41)]
    stop, least = full.text[3:5], 20
    request = generate(decoder, [5, 9], Options(40, stop=(stop,), min_tokens=least, policy=LONG))
    assert len(request.tokens) > least
    if request.finish_reason == "stop":
        assert stop in texts[len(request.tokens)][len(texts[least]) - len(stop) + 1 :]
    assert request.text.startswith(texts[least].rstrip("\ufffd"))


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(decoder: Decoder) -> None:
    full = generate(decoder, [5, 9], Options(NEW)).tokens
    stop = full[6]
    request = generate(decoder, [5, 9], Options(NEW, stop_token_ids=(stop,), policy=LONG))
    assert (request.tokens, request.finish_reason) == (full[: full.index(stop) + 1], "stop")
    assert request.text == decoder.tokenizer.decode(request.tokens[:-1])


def test_with_ignore_eos_the_text_goes_on_behind_the_end_of_text_token(decoder: Decoder) -> None:
    often_ends = Sampling(logit_bias={0: 100.0})
    assert generate(decoder, [5, 9], Options(8, often_ends)).tokens == [0]
    request = generate(decoder, [5, 9], Options(8, often_ends, ignore_eos=True))
    assert (request.tokens, request.finish_reason) == ([0] * 8, "length")


# Log-probabilities


def reference_logprobs(decoder: Decoder, tokens: list[int]) -> np.ndarray:
    """Float64 ``[n, V]``: the target's log-probabilities after each token, one call for each."""
    sequence = decoder.target.lease()
    rows = np.array([sequence.prefill([token]).copy() for token in tokens], np.float64)
    decoder.target.release(sequence)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_are_the_targets_own(decoder: Decoder, temperature: float) -> None:
    options = options_of("logprobs", temperature, prompt_logprobs=2, policy=LONG)
    request = decoder.request([5, 9, 8, 30], options)
    steps = list(decoder.run(request))
    found = [entry for step in steps for entry in step.logprobs or []]
    assert [entry.token for entry in found] == request.tokens
    rows = reference_logprobs(decoder, [*request.prompt, *request.tokens])
    assert request.prompt_logprobs is not None
    assert request.prompt_logprobs[0] is None
    for row, entry, top in zip(rows, [*request.prompt_logprobs[1:], *found], [2] * 3 + [3] * NEW, strict=False):
        assert entry is not None
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        best = sorted(row.tolist(), reverse=True)[:top]
        assert [logprob for _, logprob in entry.top] == pytest.approx(best, abs=1e-4)
    assert all(step.logprobs is not None and len(step.logprobs) == len(step.tokens) for step in steps)


def test_processed_log_probabilities_are_of_the_distribution_that_is_sampled(decoder: Decoder) -> None:
    chosen = Sampling(temperature=0.7, top_k=2, seed=1)
    request = generate(decoder, [5, 9], Options(NEW, chosen, logprobs=5, logprobs_mode="processed"))
    for entry in logprobs(request):
        assert len(entry.top) == 2
        assert entry.logprob in [logprob for _, logprob in entry.top]
        assert sum(math.exp(logprob) for _, logprob in entry.top) == pytest.approx(1.0)


def test_nobody_pays_for_log_probabilities_that_were_not_asked_for(decoder: Decoder) -> None:
    request = decoder.request([5, 9], Options(4))
    assert all(step.logprobs is None for step in decoder.run(request))
    assert request.prompt_logprobs is None
    assert not request.chooser.rules
    assert not request.chooser.logprobs


# Mistakes


def wrong_shape(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    return scores[:-1]


def no_array(tokens: Sequence[int], scores: np.ndarray) -> Any:
    scores[3] = 0.0


def words(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    return np.full(scores.shape, "a")


def nothing_left_after(count: int) -> Callable[[Sequence[int], np.ndarray], np.ndarray]:
    def ban(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        return scores if len(tokens) < count else np.full_like(scores, -np.inf)

    return ban


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (
            wrong_shape,
            r"processor wrong_shape returned an array \[299\] of float32; it must return an array \[300\] of numbers",
        ),
        (no_array, "processor no_array returned NoneType"),
        (words, r"processor words returned an array \[300\] of <U1"),
        (nothing_left_after(0), "leave no token"),
    ],
)
def test_a_processor_that_returns_no_scores_ends_its_text_in_one_line(
    decoder: Decoder, processor: Any, reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        generate(decoder, [5, 9], Options(4, processors=(processor,)))


def test_bans_are_not_written_into_an_array_that_a_processor_keeps(decoder: Decoder) -> None:
    kept = np.arange(decoder.target.vocab_size, dtype=np.float32)
    kept.setflags(write=False)
    last = len(kept) - 1
    options = Options(3, Sampling(bad_words=((last,),)), processors=(lambda tokens, scores: kept,))
    assert generate(decoder, [5, 9], options).tokens == [last - 1] * 3


@pytest.mark.parametrize("count", range(2, 16))
def test_where_no_token_is_left_the_tokens_before_stay(decoder: Decoder, count: int) -> None:
    expected = generate(decoder, [5, 9], Options(NEW)).tokens[: count - 2]
    request = decoder.request([5, 9], Options(NEW, policy=LONG, processors=(nothing_left_after(count),)))
    with pytest.raises(OptionError, match="leave no token"):
        list(decoder.run(request))
    assert (request.tokens, request.finish_reason) == (expected, "error")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Sampling(frequency_penalty=2.1), "frequency penalty 2.1 must lie between -2 and 2"),
        (lambda: Sampling(presence_penalty=-3), "presence penalty -3.0 must lie"),
        (lambda: Sampling(logit_bias={3: 101}), "logit bias 101 of token 3"),
        (lambda: Sampling(logit_bias={3: math.nan}), "logit bias nan of token 3"),
        (lambda: Sampling(bad_words=("",)), "bad word is empty"),
        (lambda: Options(4, min_tokens=5), "min-tokens 5 must lie between 0 and max-new-tokens 4"),
        (lambda: Options(4, logprobs=-1), "logprobs -1 must be 0"),
        (lambda: Options(4, prompt_logprobs=-1), "prompt-logprobs -1"),
        (lambda: Options(4, logprobs_mode="cooked"), "logprobs-mode is 'cooked'"),  # type: ignore[arg-type]
    ],
)
def test_an_option_out_of_range_is_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        make()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (sampling(logit_bias={300: 1.0}), "logit bias: token id 300 is outside the vocabulary of 300"),
        (sampling(bad_words=((4, -1),)), "bad word: token id -1"),
        ({"stop_token_ids": (999,)}, "stop token id: token id 999"),
    ],
)
def test_a_token_outside_the_vocabulary_is_refused(decoder: Decoder, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        decoder.request([5], Options(4, **changes))


def test_sampling_options_stay_comparable_and_hashable() -> None:
    bias = {3: 1.0}
    first, second = Sampling(logit_bias=bias), Sampling(logit_bias={3: 1.0})
    bias[3] = 2.0
    assert first == second != Sampling(logit_bias=bias)
    assert hash(first) == hash(second)


def test_prompt_log_probabilities_do_not_depend_on_kept_prefixes_nor_on_how_the_prompt_is_cut(target: Target) -> None:
    decoder, prompt = Decoder(target), [*range(1, 200)]
    memory = CacheMemory(prefix_bytes=2**22)
    requests = [decoder.request(prompt, Options(2, prompt_logprobs=asked)) for asked in (None, 1, 1)]
    for request in requests:
        scheduler = Scheduler(memory=memory)
        scheduler.add(request)
        while scheduler.busy:
            scheduler.step()
    assert requests[0].prompt_logprobs is None
    assert requests[1].prompt_logprobs == requests[2].prompt_logprobs
    assert len(requests[1].prompt_logprobs or []) == len(prompt)
    assert same_bits(requests[0], requests[1])
