"""The scheduler reports every call, so that whoever watches counts what the texts count themselves."""

from __future__ import annotations

import pytest

from runtime.decoding.batch import CallReport
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.stats import Stats
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.tree.shape import TreeShape
from tests.runtime.decoding.served import NEW, PROMPTS, Text, serve

FIXED = Options(NEW, policy=Policy(FixedThresholds()))
TREE = Options(NEW, policy=Policy(FixedThresholds(), TreeShape(depth=3, top_k=4, nodes=12)))


@pytest.fixture
def reports(scheduler: Scheduler) -> list[CallReport]:
    reports: list[CallReport] = []
    scheduler.watchers.append(reports.append)
    return reports


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(sequences=3)


def test_the_sums_over_reports_are_the_sums_over_texts(
    decoders: list[Decoder], scheduler: Scheduler, reports: list[CallReport]
) -> None:
    texts = [Text(number % 2, number, FIXED if number % 3 else TREE, joins=number) for number in range(len(PROMPTS))]
    requests = serve(scheduler, decoders, texts)
    counted = Stats()
    for report in reports:
        exits = report.pair.draft.exits if report.pair.draft else ()
        for outcome in report.outcomes.values():
            counted.record(outcome.proposal, exits, len(outcome.path), outcome.times)
    assert counted.drafts == sum(request.stats.drafts for request in requests) > 0
    assert counted.draft_tokens == sum(request.stats.draft_tokens for request in requests)
    assert counted.accepted_tokens == sum(request.stats.accepted_tokens for request in requests)
    tokens = sum(len(step.tokens) for report in reports for _, step in report.steps)
    assert tokens == sum(len(request.tokens) for request in requests)


def test_a_text_counts_drafts_draft_tokens_and_accepted_tokens(
    decoders: list[Decoder], scheduler: Scheduler, reports: list[CallReport]
) -> None:
    (request,) = serve(scheduler, decoders, [Text(options=TREE)])
    trees = [outcome.proposal.tree for report in reports for outcome in report.outcomes.values()]
    assert request.stats.drafts == sum(len(tree) > 1 for tree in trees)
    assert request.stats.draft_tokens == sum(len(tree) - 1 for tree in trees) > request.stats.drafts
    assert request.stats.accepted_tokens == sum(request.stats.accepted_at_depth.values())


def test_a_watcher_that_raises_ends_no_text(
    decoders: list[Decoder], scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: CallReport) -> None:
        raise ValueError("a faulty watcher")

    scheduler.watchers.append(fail)
    (request,) = serve(scheduler, decoders, [Text(options=FIXED)])
    assert request.finish_reason == "length"
    assert "a faulty watcher" in caplog.text


def test_the_bytes_of_running_texts_grow_with_them_and_fall_to_nothing(
    decoders: list[Decoder], scheduler: Scheduler
) -> None:
    held: list[int] = []
    scheduler.watchers.append(lambda _: held.append(scheduler.memory.bytes_of(scheduler.running)))
    request: Request = decoders[0].request(PROMPTS[0], FIXED)
    scheduler.add(request)
    while scheduler.busy:
        scheduler.step()
    *growing, last = held
    assert growing == sorted(growing)
    assert growing[0] > 0
    assert last == 0


def test_the_adaptive_policy_says_what_its_drafting_should_take(
    known_costs: None, decoders: list[Decoder], scheduler: Scheduler, reports: list[CallReport]
) -> None:
    serve(scheduler, [Decoder(decoder.target, decoder.draft) for decoder in decoders], [Text(options=Options(NEW))])
    assert [report.predicted_draft_ms > 0 for report in reports] == [report.batch.drafted > 0 for report in reports]
    assert any(report.batch.drafted for report in reports)
