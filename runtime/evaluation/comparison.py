"""Comparing a drafted text with the target decoding alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.rules import chooser_of
from runtime.text.prefix import common_prefix


def generate(decoder: Decoder, prompt: list[int], options: Options) -> Request:
    """Run a request to its end."""
    request = decoder.request(prompt, options)
    for _ in decoder.run(request):
        pass
    return request


def target_alone(decoder: Decoder, prompt: list[int], options: Options, exact: bool = False) -> Request:
    """The target without drafting: at its fastest, or as ``exact`` decoding calls it."""
    return generate(decoder, prompt, replace(options, draft=False, exact=exact))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two outputs are identical; if not, where they first differ and by how little.

    ``bits`` says whether the scores of all chosen tokens are equal too, to the last bit. ``margin`` is the difference
    of the two tokens' scores (processed logits plus noise) at ``position``; None where one output ended there, or
    where the target gives no scores.
    """

    identical: bool
    bits: bool = False
    position: int | None = None
    margin: float | None = None


def compare(decoder: Decoder, request: Request, reference: Request) -> Comparison:
    """Compare the new tokens of ``request`` with those of ``reference``, which ran with the same seed."""
    ours, theirs = request.tokens, reference.tokens
    if ours == theirs and request.finish_reason == reference.finish_reason:
        return Comparison(True, same_bits(request, reference))
    common = common_prefix(ours, theirs)
    if common == len(ours) or common == len(theirs):
        return Comparison(identical=False, position=common)
    scores = _scores_after(decoder, reference, common)
    margin = float(np.abs(scores[ours[common]] - scores[theirs[common]]))
    return Comparison(False, False, common, margin if np.isfinite(margin) else None)


def compare_with_target(decoder: Decoder, request: Request, alone: Request) -> Comparison:
    """Compare with ``alone``, the target at its fastest; where an exact request differs in bits, with an exact run.

    Some targets compute a lone row with other bits than a row in company; decoding exactly then avoids lone rows.
    """
    comparison = compare(decoder, request, alone)
    if not request.exact or comparison.bits:
        return comparison
    options = with_seed(request.options, request.seed)
    return compare(decoder, request, target_alone(decoder, request.prompt, options, exact=True))


def same_bits(ours: Request, theirs: Request) -> bool:
    """Whether both have the same tokens, finish reason and scores, to the last bit."""
    same = (ours.tokens, ours.finish_reason) == (theirs.tokens, theirs.finish_reason)
    return same and _chosen_scores(ours) == _chosen_scores(theirs)


def same_bits_so_far(request: Request, alone: Request) -> bool:
    """As ``same_bits``; a cancelled text is compared as far as it was generated."""
    if request.finish_reason != "cancelled":
        return same_bits(request, alone)
    count = len(request.tokens)
    return request.tokens == alone.tokens[:count] and _chosen_scores(request) == _chosen_scores(alone)[:count]


def _chosen_scores(request: Request) -> list[float]:
    """The scores of the tokens that the text kept."""
    return request.chooser.chosen_scores[: len(request.tokens)]


def _scores_after(decoder: Decoder, request: Request, count: int) -> np.ndarray:
    """Scores float32 ``[V]`` for the token after the first ``count`` new tokens of ``request``."""
    prefix = request.prompt + request.tokens[:count]
    chooser = chooser_of(request.prompt, request.options, request.noise, decoder)
    for token in request.tokens[:count]:
        chooser.follow(token)
    sequence = decoder.target.lease()
    try:
        return chooser.scores(sequence.prefill(prefix), len(prefix))
    finally:
        decoder.target.release(sequence)


def with_seed(options: Options, seed: int) -> Options:
    """The same options with the seed fixed."""
    return replace(options, sampling=replace(options.sampling, seed=seed))


def warm_up(decoder: Decoder, prompt: list[int], options: Options) -> None:
    """Let both sides touch their buffers and kernels once, so that neither pays for it in a comparison."""
    most = min(16, options.max_new_tokens)
    short = replace(options, max_new_tokens=most, min_tokens=min(most, options.min_tokens))
    generate(decoder, prompt, short)
    target_alone(decoder, prompt, short)
