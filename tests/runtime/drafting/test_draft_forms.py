"""Other forms than float32: a draft of any form changes no text, an int8 target is its own reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import generate, target_alone
from runtime.sampling.options import Sampling

PROMPTS = [[5, 9, 200, 31], [17] * 40, [1, 2, 3]]
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=3)]


@pytest.fixture(scope="module")
def opened() -> Callable[[Path, Path], Decoder]:
    return lambda target, draft: Decoder.open(target, draft, Placement(threads=1))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_an_int8_draft_leaves_a_float32_targets_text_alone(opened, target_bundle, int8_draft_bundle, sampling) -> None:
    decoder = opened(target_bundle, int8_draft_bundle)
    for prompt in PROMPTS:
        request = generate(decoder, prompt, Options(30, sampling))
        assert request.tokens == target_alone(decoder, prompt, Options(30, sampling)).tokens


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_exact_chains_on_an_int8_target_are_bit_identical(
    opened, int8_target_bundle, int8_draft_bundle, sampling
) -> None:
    decoder = opened(int8_target_bundle, int8_draft_bundle)
    for prompt in PROMPTS:
        options = Options(30, sampling, policy=Policy(FixedThresholds()), exact=True)
        request = generate(decoder, prompt, options)
        assert request.tokens == target_alone(decoder, prompt, options, exact=True).tokens
        assert request.stats.mean_accepted_tokens > 1


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_a_head_of_few_tokens_leaves_the_targets_text_alone(
    opened, target_bundle, draft_checkpoint, tmp_path, sampling
) -> None:
    from export import build

    (tmp_path / "text.txt").write_text("the draft proposes and the target disposes; a tree of tokens")
    head = ["--head-tokens", "16", "--calibration", str(tmp_path / "text.txt"), "--no-parity"]
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "few.engine"), *head])
    decoder = opened(target_bundle, tmp_path / "few.engine")
    for prompt in PROMPTS:
        options = Options(30, sampling, policy=Policy(FixedThresholds()))
        assert generate(decoder, prompt, options).tokens == target_alone(decoder, prompt, options).tokens
