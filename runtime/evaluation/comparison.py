"""The target alone, to compare with: the same loop without a draft."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Options, Request


def generate(decoder: Decoder, prompt: list[int], options: Options) -> Request:
    """Run a request to its end."""
    request = decoder.request(prompt, options)
    for _ in decoder.run(request):
        pass
    return request


def target_alone(decoder: Decoder, prompt: list[int], options: Options, exact: bool = False) -> Request:
    """The target without a draft; not ``exact``, at its fastest."""
    return generate(decoder, prompt, replace(options, draft=False, exact=exact))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two outputs are identical; if not, where they first differ and by how little.

    ``margin`` is the difference of the two tokens' scores (processed logits plus noise) there; None where one output
    has ended, or where the target tells choices and no scores.
    """

    identical: bool
    position: int | None = None
    margin: float | None = None


def compare(decoder: Decoder, request: Request, reference: Request) -> Comparison:
    """Compare the new tokens of ``request`` with those of ``reference``, which ran with the same seed."""
    ours, theirs = request.tokens, reference.tokens
    if ours == theirs and request.finish_reason == reference.finish_reason:
        return Comparison(identical=True)
    common = 0
    while common < min(len(ours), len(theirs)) and ours[common] == theirs[common]:
        common += 1
    if common == len(ours) or common == len(theirs):
        return Comparison(identical=False, position=common)
    # The reference's chooser has seen the whole text since: a new one judges the common prefix.
    prefix = reference.prompt + reference.tokens[:common]
    judge = decoder.request(prefix, with_seed(reference.options, reference.seed))
    slot = decoder.target.lease()
    try:
        scores = judge.chooser.scores(slot.prefill(prefix), len(prefix))
    finally:
        decoder.target.release(slot)
    margin = float(np.abs(scores[ours[common]] - scores[theirs[common]]))
    return Comparison(False, common, margin if np.isfinite(margin) else None)


def with_seed(options: Options, seed: int) -> Options:
    """The same options with the seed fixed."""
    return replace(options, sampling=replace(options.sampling, seed=seed))


def warm_up(decoder: Decoder, prompt: list[int], options: Options) -> None:
    """Let both sides touch their buffers and kernels once, so that neither pays for it in a comparison."""
    short = replace(options, max_new_tokens=min(16, options.max_new_tokens))
    generate(decoder, prompt, short)
    target_alone(decoder, prompt, short)
