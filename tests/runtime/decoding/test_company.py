"""Continuous batching: whoever else is served, each text is what it is alone; and all that is leased comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import same_bits_so_far
from tests.runtime.decoding.cases import SURE, WARM, WIDE, assert_same
from tests.runtime.decoding.served import GREEDY, NEW, PROMPTS, Leases, Noting, Text, serve

pytestmark = pytest.mark.usefixtures("known_costs")

OPTIONS = st.builds(
    Options,
    st.sampled_from([2, NEW, NEW]),
    st.sampled_from([GREEDY, WARM]),
    policy=st.sampled_from([Policy(), SURE, replace(SURE, lookup=True), WIDE]),
    draft=st.sampled_from([True, True, True, False]),
)


@dataclass(frozen=True)
class Company:
    """Who is served together, in how much memory; ``happens`` is what the examples must come to."""

    happens: str
    prompts: tuple[int, ...]
    sequences: tuple[int, ...] = (1, 3, 8)
    least_texts: int = 2
    rows: tuple[int, int] | None = None
    prefix_bytes: int = 0

    @property
    def texts(self) -> st.SearchStrategy[list[Text]]:
        texts = st.builds(
            Text,
            decoder=st.integers(0, 1),
            prompt=st.sampled_from(self.prompts),
            options=OPTIONS,
            joins=st.integers(0, 8),
            cancelled=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 20)),
        )
        return st.lists(texts, min_size=self.least_texts, max_size=10)

    @property
    def limits(self) -> st.SearchStrategy[int | None]:
        return st.none() if self.rows is None else st.integers(*self.rows)


@pytest.mark.parametrize(
    "company",
    [
        Company("cancelled", prompts=tuple(range(len(PROMPTS)))),
        Company("preempted", prompts=(0, 1), sequences=(8,), least_texts=6, rows=(60, 200)),
        Company("restored", prompts=(4, 5, 6, 7), sequences=(1, 2, 3), least_texts=4, prefix_bytes=2**21),
    ],
    ids=lambda company: company.happens,
)
def test_every_text_is_what_it_is_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], company: Company
) -> None:
    leases, happened = Leases(decoders), Counter[str]()
    row_bytes = leases.owners[0].token_bytes + leases.owners[1].token_bytes

    @settings(max_examples=15)
    @given(company.texts, st.sampled_from(company.sequences), company.limits)
    def serves(texts: list[Text], sequences: int, rows: int | None) -> None:
        before, memory = leases.free, Noting(rows and rows * row_bytes, company.prefix_bytes)
        requests = serve(Scheduler(sequences, memory), decoders, texts)
        for text, request in zip(texts, requests, strict=True):
            assert request.error is None
            happened[request.finish_reason or "none"] += 1
            if request.exact:
                assert same_bits_so_far(request, alone(text)), text
            elif request.started and text.cancelled is None:  # a tree may differ where rounding decides
                assert_same(decoders[text.decoder], request, alone(text))
        happened["restored"] += memory.restored_tokens
        happened["preempted"] += memory.preempted
        leases.check(requests, before)

    serves()
    assert happened[company.happens] > 0, "the test shows nothing"


# Who runs, and when
