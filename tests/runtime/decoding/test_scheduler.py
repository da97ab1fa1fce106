"""Continuous batching: whoever else is served, each text is what it is alone; and all that is leased comes back."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.placement import Placement
from runtime.decoding.batch import CHUNK_BESIDE_OTHERS, LEAST_CHUNK, LONGER
from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import same_bits, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.interface import Chunk, Part
from runtime.targets.target import Target
from runtime.tree.tree import Tree
from s2d_trt.errors import OptionError, S2DError
from tests.runtime.decoding.cases import SURE, WARM, WIDE, assert_same

NEW = 32
SHARED = np.random.default_rng(1).integers(1, 300, 140).tolist()
"""Several prompts begin with it."""
PROMPTS = ([5, 9], [7] * 20, [44, 3, 8] * 21, SHARED[:64], SHARED[:66], SHARED[:130], [*SHARED, 1], [*SHARED, 2, 3])
GREEDY = Sampling()
LINE = tuple(1.0 + 0.05 * rows for rows in WIDTHS)
COSTS = Costs(LINE, (LINE,) * 3, LINE, ((2, 0.2), (4, 0.4), (8, 0.8)), ((2, 0.1), (4, 0.2), (8, 0.4)))


@pytest.fixture(scope="module", autouse=True)
def known_costs() -> Iterator[None]:
    """Nothing is measured: what a text drafts does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.decoding.preparation.measured_costs", lambda *_, **__: COSTS)
        yield


@pytest.fixture(scope="module")
def decoders(target: Target, other_target: Target, draft: SortedDraft) -> list[Decoder]:
    """Two targets over one draft."""
    return [Decoder(target, draft), Decoder(other_target, draft)]


@dataclass(frozen=True)
class Text:
    """What is asked for, and when: the steps at which it joins and at which it is cancelled."""

    decoder: int = 0
    prompt: int = 0
    options: Options = field(default_factory=lambda: Options(NEW))
    joins: int = 0
    cancelled: int | None = None


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


class Leases:
    """What texts hold of the targets and the draft."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.owners: list[Any] = list(
            {id(owner): owner for each in decoders for owner in (each.target, each.draft)}.values()
        )

    @property
    def free(self) -> list[int]:
        return [len(owner._free) for owner in self.owners]

    def check(self, requests: Sequence[Request], free_before: list[int]) -> None:
        """Nothing is held, nothing is lost, and nothing was given back twice."""
        assert all(request.sequence is None and request.drafting is None for request in requests)
        for owner, before in zip(self.owners, free_before, strict=True):
            assert len(set(map(id, owner._free))) == len(owner._free) >= before


def serve(scheduler: Scheduler, decoders: Sequence[Decoder], texts: Sequence[Text]) -> list[Request]:
    """Run all texts; each joins and is cancelled at its step."""
    requests = [decoders[text.decoder].request(PROMPTS[text.prompt], text.options) for text in texts]
    number, steps = 0, [[] for _ in texts]
    while scheduler.busy or number <= max(text.joins for text in texts):
        for text, request in zip(texts, requests, strict=True):
            if text.joins == number:
                scheduler.add(request)
            if text.cancelled == number:
                request.cancel()
        for request, step in scheduler.step():
            steps[requests.index(request)] += step.tokens
        assert len(scheduler.running) <= scheduler.sequences
        number += 1
        assert number < 2000, "the texts do not come to an end"
    assert steps == [request.tokens for request in requests]
    return requests


class Noting(CacheMemory):
    """Counts the texts that had to give way."""

    preempted = 0

    def end(self, request: Request) -> None:
        self.preempted += not request.finished
        super().end(request)


def agrees(request: Request, expected: Request) -> bool:
    """The same tokens and scores, as far as a cancelled text came."""
    if request.finish_reason != "cancelled":
        return same_bits(request, expected)
    count = len(request.tokens)
    scores = request.chooser.chosen_scores[:count], expected.chooser.chosen_scores[:count]
    return request.tokens == expected.tokens[:count] and scores[0] == scores[1]


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
                assert agrees(request, alone(text)), text
            elif request.started and text.cancelled is None:  # a tree may differ where rounding decides
                assert_same(decoders[text.decoder], request, alone(text))
        happened["restored"] += memory.restored_tokens
        happened["preempted"] += memory.preempted
        leases.check(requests, before)

    serves()
    assert happened[company.happens] > 0, "the test shows nothing"


# Who runs, and when


def admitted(scheduler: Scheduler, requests: Sequence[Request]) -> list[int]:
    """The numbers of the requests in the order in which they begin."""
    order: list[int] = []
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        running = set(scheduler.running)
        scheduler.step()
        began = [request for request in requests if request.tokens and requests.index(request) not in order]
        assert len(running) <= scheduler.sequences
        order += [requests.index(request) for request in began]
    return order


def test_waiting_texts_keep_their_order(decoders: list[Decoder]) -> None:
    requests = [decoders[number % 2].request([5, 9], Options(2 + number % 3)) for number in range(7)]
    assert admitted(Scheduler(sequences=2), requests) == list(range(7))


def test_texts_run_together_up_to_the_number_of_sequences(decoders: list[Decoder]) -> None:
    scheduler = Scheduler(sequences=3)
    for number in range(5):
        scheduler.add(decoders[0].request([5, number + 1], Options(5)))
    scheduler.step()
    assert (len(scheduler.running), len(scheduler.waiting)) == (3, 2)
    scheduler.close()
    assert not scheduler.busy


def test_a_text_joins_between_steps_and_leaves_when_it_ends(decoders: list[Decoder]) -> None:
    scheduler, first, second = (
        Scheduler(),
        *(decoders[0].request([5, 9], Options(count, draft=False)) for count in (3, 6)),
    )
    scheduler.add(first)
    scheduler.step()
    scheduler.add(second)
    scheduler.step()
    assert scheduler.running == [first, second]
    while not first.finished:
        scheduler.step()
    assert scheduler.running == [second]
    scheduler.close()


@pytest.mark.parametrize("sequences", [0, -1])
def test_a_scheduler_that_can_run_no_text_is_refused(sequences: int) -> None:
    with pytest.raises(OptionError, match="allow at least 1"):
        Scheduler(sequences)


def test_a_request_is_taken_once(decoders: list[Decoder]) -> None:
    scheduler, request = Scheduler(), decoders[0].request([5, 9], Options(2))
    scheduler.add(request)
    with pytest.raises(OptionError, match="run before"):
        scheduler.add(request)
    assert list(scheduler.waiting) == [request]
    scheduler.close()
    assert request.finish_reason == "cancelled"


def test_texts_that_outgrow_the_memory_wait_and_go_on_where_they_were(
    decoders: list[Decoder], alone: Callable[[Text], Request]
) -> None:
    texts = [Text(prompt=1, options=Options(NEW, replace(WARM, seed=seed), policy=SURE)) for seed in range(6)]
    requests = [decoders[0].request(PROMPTS[text.prompt], text.options) for text in texts]
    scheduler = Scheduler(memory=CacheMemory(limit=4 * decoders[0].bytes_of(requests[0])))
    for request in requests:
        scheduler.add(request)
    restarted: set[int] = set()
    while scheduler.busy:
        running = list(scheduler.running)
        scheduler.step()
        restarted |= {requests.index(request) for request in running if request in scheduler.waiting}
        assert len(scheduler.running) <= 4
    assert restarted, "no text outgrew the memory: the test shows nothing"
    assert 0 not in restarted  # the oldest goes on
    assert all(same_bits(request, alone(text)) for text, request in zip(texts, requests, strict=True))


def test_a_text_larger_than_the_memory_runs_by_itself(
    decoders: list[Decoder], alone: Callable[[Text], Request]
) -> None:
    texts = [Text(prompt=1), Text(prompt=2)]
    scheduler = Scheduler(memory=CacheMemory(limit=1))
    requests = serve(scheduler, decoders, texts)
    assert all(same_bits(request, alone(text)) for text, request in zip(texts, requests, strict=True))


# Prefixes


@pytest.fixture
def prompt_rows(decoders: list[Decoder], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the chunks of prompts that the first target runs."""
    rows: list[int] = []
    run = decoders[0].target.run

    def noted(parts: Sequence[Part]) -> Any:
        rows.extend(len(part) for _, part in parts if isinstance(part, Chunk))
        return run(parts)

    monkeypatch.setattr(decoders[0].target, "run", noted)
    return rows


@pytest.mark.parametrize(("first", "second", "computed"), [(6, 7, 14), (3, 4, 2), (4, 3, 64), (2, 6, 141), (6, 6, 13)])
def test_rows_of_an_earlier_text_are_not_computed_again(
    decoders: list[Decoder],
    alone: Callable[[Text], Request],
    prompt_rows: list[int],
    first: int,
    second: int,
    computed: int,
) -> None:
    text = Text(prompt=second, options=Options(NEW, WARM))
    expected, memory = alone(text), CacheMemory(prefix_bytes=2**24)
    serve(Scheduler(memory=memory), decoders, [Text(prompt=first)])
    prompt_rows.clear()
    (request,) = serve(Scheduler(memory=memory), decoders, [text])
    assert sum(prompt_rows) == computed
    assert memory.restored_tokens == len(PROMPTS[second]) - computed
    assert same_bits(request, expected)


def test_a_chat_turn_begins_with_the_rows_of_the_turn_before(decoders: list[Decoder], prompt_rows: list[int]) -> None:
    memory, decoder = CacheMemory(prefix_bytes=2**24), decoders[0]
    scheduler, first = Scheduler(memory=memory), decoder.request(SHARED[:100], Options(40))
    scheduler.add(first)
    while scheduler.busy:
        scheduler.step()
    prompt_rows.clear()
    # Of the 139 or 140 committed tokens two blocks of 64 are whole.
    second = decoder.request([*first.prompt, *first.tokens, 1, 2, 3], Options(4))
    scheduler.add(second)
    while scheduler.busy:
        scheduler.step()
    assert sum(prompt_rows) == 143 - 128
    assert same_bits(second, target_alone(decoder, second.prompt, second.options, exact=True))


@pytest.mark.parametrize("exact", [True, False])
def test_only_rows_whose_bits_do_not_depend_on_the_call_are_kept(decoders: list[Decoder], exact: bool) -> None:
    memory = CacheMemory(prefix_bytes=2**24)
    for _ in range(2):
        serve(Scheduler(memory=memory), decoders, [Text(prompt=6, options=Options(NEW, exact=exact))])
    assert memory.restored_tokens == (128 if exact else 0)


def test_the_rows_of_a_target_go_with_it(target_bundle: Path) -> None:
    # Otherwise a later target could be taken for it.
    memory = CacheMemory(prefix_bytes=2**24)
    serve(Scheduler(memory=memory), [Decoder(Target.open(target_bundle, Placement(threads=1)))], [Text(prompt=6)])
    gc.collect()
    assert not memory._prefixes


# Cancelling and errors


@pytest.mark.parametrize("waits", [False, True])
def test_a_cancelled_text_gives_back_what_it_holds_within_a_step(decoders: list[Decoder], waits: bool) -> None:
    scheduler = Scheduler(sequences=1 if waits else 4)
    requests = [decoders[0].request([5, number + 1], Options(NEW)) for number in range(3)]
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    leases = Leases(decoders)
    before = leases.free
    requests[-1].cancel()
    scheduler.step()
    assert requests[-1].finish_reason == "cancelled"
    assert requests[-1] not in [*scheduler.running, *scheduler.waiting]
    assert [after - free for after, free in zip(leases.free, before, strict=True)] == ([0] * 3 if waits else [1, 1, 0])
    scheduler.close()


@dataclass
class Breaking:
    """An engine whose calls fail from the ``at``-th on."""

    run: Callable[..., Any]
    at: int
    calls: int = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls >= self.at:
            raise RuntimeError("the engine is gone")
        return self.run(*arguments)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_error_of_one_targets_engine_ends_its_texts_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    texts = [
        Text(decoder, prompt, Options(NEW, sampling))
        for decoder, prompt, sampling in [(0, 0, GREEDY), (1, 2, WARM), (0, 2, WARM), (1, 4, GREEDY)]
    ]
    expected = [alone(text) for text in texts]
    leases = Leases(decoders)
    before, engine = leases.free, decoders[1].target.engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", Breaking(engine.forward, at))
        requests = serve(Scheduler(), decoders, texts)
    for text, request, whole in zip(texts, requests, expected, strict=True):
        if text.decoder == 0:
            assert same_bits(request, whole)
        else:
            assert request.finish_reason == "error"
            assert str(request.error) == "the engine is gone"
            assert request.tokens == whole.tokens[: len(request.tokens)]
    leases.check(requests, before)
    (again,) = serve(Scheduler(), decoders, [texts[1]])
    assert same_bits(again, expected[1])


def test_an_error_of_the_draft_ends_the_texts_that_draft(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        Text(options=Options(NEW, policy=SURE)),
        Text(1, options=Options(NEW, policy=SURE)),
        Text(prompt=1, options=Options(NEW, draft=False)),
    ]
    expected, leases = [alone(text) for text in texts], Leases(decoders)
    before, engines = leases.free, decoders[0].draft.engines
    with monkeypatch.context() as patch:
        patch.setattr(engines, "forward", Breaking(engines.forward, 4))
        requests = serve(Scheduler(), decoders, texts)
    assert [request.finish_reason for request in requests] == ["error", "error", "length"]
    assert same_bits(requests[2], expected[2])
    leases.check(requests, before)
    assert all(map(same_bits, serve(Scheduler(), decoders, texts), expected))


def test_what_cannot_be_promised_to_one_text_ends_that_text_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def inexact(*_: object) -> None:
        raise S2DError("other bits")

    texts = [Text(), Text(1, options=Options(NEW, exact=True))]
    expected = alone(texts[0])
    monkeypatch.setattr(decoders[1].target, "check_exact", inexact)
    fresh = [decoders[0], Decoder(decoders[1].target, decoders[1].draft)]
    requests = serve(Scheduler(), fresh, texts)
    assert same_bits(requests[0], expected)
    assert (requests[1].finish_reason, str(requests[1].error)) == ("error", "other bits")
    assert requests[1].sequence is None


@pytest.mark.parametrize("where", ["push", "finish"])
def test_a_text_whose_tokens_cannot_be_decoded_ends_alone(
    decoders: list[Decoder], alone: Callable[[Text], Request], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    texts = [Text(), Text(prompt=1), Text(prompt=2)]
    expected, leases = [alone(text) for text in texts], Leases(decoders)
    before, scheduler = leases.free, Scheduler()
    requests = [decoders[0].request(PROMPTS[text.prompt], text.options) for text in texts]

    def broken(*_: object) -> None:
        raise RuntimeError("no text")

    for request in requests:
        scheduler.add(request)
    scheduler.step()
    monkeypatch.setattr(requests[1]._stream, where, broken)
    if where == "finish":
        requests[1].cancel()
    while scheduler.busy:
        scheduler.step()
    assert (requests[1].finish_reason, str(requests[1].error)) == ("error", "no text")
    assert same_bits(requests[0], expected[0])
    assert same_bits(requests[2], expected[2])
    leases.check(requests, before)


# A long prompt beside a text that decodes


@pytest.fixture
def calls(decoders: list[Decoder], monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Of each call of the first target the sizes of its trees and of its chunks of prompts."""
    made: list[tuple[list[int], list[int]]] = []
    run = decoders[0].target.run

    def noted(parts: Sequence[Part]) -> Any:
        trees = [len(part) for _, part in parts if isinstance(part, Tree)]
        made.append((trees, [len(part) for _, part in parts if isinstance(part, Chunk)]))
        return run(parts)

    monkeypatch.setattr(decoders[0].target, "run", noted)
    return made


def beside_a_decoding_text(decoder: Decoder, options: Options, prompts: Sequence[list[int]]) -> list[Request]:
    """A text decodes, and prompts join."""
    scheduler, first = Scheduler(), decoder.request([5, 9], replace(options, max_new_tokens=100))
    scheduler.add(first)
    scheduler.step()
    others = [decoder.request(prompt, replace(options, max_new_tokens=2)) for prompt in prompts]
    for request in others:
        scheduler.add(request)
    while not all(request.tokens for request in others):
        tokens = len(first.tokens)
        scheduler.step()
        assert len(first.tokens) > tokens  # it gains a token in every step
    scheduler.close()
    return others


def test_a_prompt_alone_is_read_in_the_largest_chunks(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    scheduler = Scheduler()
    scheduler.add(decoders[0].request([7] * 200, Options(1, draft=False)))
    while scheduler.busy:
        scheduler.step()
    assert calls == [([], [128]), ([], [72])]


def test_without_measured_costs_a_chunk_beside_a_decoding_text_has_few_rows(
    target: Target, decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    beside_a_decoding_text(Decoder(target), Options(draft=False), [SHARED[:100], SHARED[:30]])
    chunks = [chunks for trees, chunks in calls if trees and chunks]
    assert len(chunks) > 5
    assert all(sum(each) <= CHUNK_BESIDE_OTHERS for each in chunks)


def test_with_measured_costs_a_chunk_makes_the_step_of_a_decoding_text_little_longer(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    beside_a_decoding_text(decoders[0], Options(policy=Policy(lookup=False)), [SHARED])
    beside = [(sum(trees), sum(chunks)) for trees, chunks in calls if trees and chunks]
    assert len(beside) > 2
    usual = max(rows for rows, _ in beside)
    most = max(
        LEAST_CHUNK, next(n for n in range(128, 0, -1) if COSTS.verify_ms(usual + n) <= LONGER * COSTS.verify_ms(usual))
    )
    assert all(0 < rows <= most for _, rows in beside)


def test_prompts_are_read_in_the_order_of_their_texts(
    decoders: list[Decoder], calls: list[tuple[list[int], list[int]]]
) -> None:
    scheduler = Scheduler()
    requests = [decoders[0].request([7 + number] * 100, Options(2, draft=False)) for number in range(3)]
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    assert calls == [([], [100, 28])]
    assert [bool(request.tokens) for request in requests] == [True, False, False]
    scheduler.close()


def test_the_draft_follows_a_prompt_that_is_read_in_chunks(decoders: list[Decoder]) -> None:
    """So that its first step does not wait for the draft's reading of the whole prompt."""
    decoder = decoders[0]
    scheduler, first = Scheduler(), decoder.request([5, 9], Options(100, policy=SURE))
    scheduler.add(first)
    scheduler.step()
    request = decoder.request(SHARED, Options(4, policy=SURE))
    scheduler.add(request)
    while not request.tokens:
        scheduler.step()
    assert request.drafting is not None
    backlog = request.drafting.sequences[0].prospect(9).backlog
    scheduler.close()
    assert backlog is not None
    assert backlog <= 2 * CHUNK_BESIDE_OTHERS
