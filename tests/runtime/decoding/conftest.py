"""Decoders over one draft, and texts of theirs alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Request
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import target_alone
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from tests.runtime.decoding.served import PROMPTS, Text


@pytest.fixture(scope="module")
def decoders(target: Target, other_target: Target, draft: SortedDraft) -> list[Decoder]:
    """Two targets over one draft."""
    return [Decoder(target, draft), Decoder(other_target, draft)]


@pytest.fixture(scope="module")
def alone(decoders: list[Decoder]) -> Callable[[Text], Request]:
    """The same text, by the target alone and exactly."""
    known: dict[tuple[int, int, int, Sampling], Request] = {}

    def generated(text: Text) -> Request:
        key = text.decoder, text.prompt, text.options.max_new_tokens, text.options.sampling
        if key not in known:
            decoder = decoders[text.decoder]
            known[key] = target_alone(decoder, PROMPTS[text.prompt], text.options, exact=True)
        return known[key]

    return generated
