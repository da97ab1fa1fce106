"""Replaying recorded candidates gives what decoding gives, step by step, without a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedBudget, FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.replay.exactness import Traced, check
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.replay.steps import Replay, Summary
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.tree.shape import TreeShape
from tests.runtime.evaluation.conftest import PRICES, encoded, sampled

CHAIN, HESITANT = FixedThresholds(), FixedThresholds((0.9, 0.9, 0.0))
POLICIES = {
    "chain": (Policy(CHAIN), None),
    "long chain through the exits": (Policy(HESITANT, TreeShape(6, 1, 60)), None),
    "chain and lookup": (Policy(CHAIN, lookup=True), None),
    "tree": (Policy(HESITANT, TreeShape(3, 4, 16)), False),
    "tree, published confidence": (Policy(FixedThresholds((0.6, 0.6, 0.0), "max"), TreeShape(2, 8, 40)), False),
    "adaptive": (Policy(Adaptive()), None),
    "adaptive tree": (Policy(Adaptive()), False),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("agreeing", [True, False], ids=["target", "other target"])
def test_every_step_of_every_policy_is_replayed_exactly(
    target: Target, other_target: Target, draft: SortedDraft, agreeing: bool, temperature: float
) -> None:
    model = target if agreeing else other_target
    recorder = Recorder(Decoder(model, draft))
    recording = recorder.record(encoded(recorder.decoder), sampled(temperature))
    for name, (policy, exact) in POLICIES.items():
        # What a decoder has learned from other texts is not part of a replay.
        verdict = check(
            Recorder(Decoder(model, draft)), recording, replace(sampled(temperature), policy=policy, exact=exact)
        )
        assert verdict.steps > 0
        assert not verdict.faults, name
        for mismatch in verdict.mismatches:
            print(f"{name}: text {mismatch.text}, step {mismatch.step}: {mismatch.excuse}")


def test_a_text_that_stopped_early_is_replayed_to_the_end_of_its_last_step(decoder: Decoder) -> None:
    whole = Recorder(decoder).record(encoded(decoder)[:1], sampled(0.0)).texts[0]
    stop = decoder.tokenizer.decode(whole.tokens[5:7])
    options = replace(sampled(0.0), stop=(stop,), policy=Policy(CHAIN, TreeShape(6, 1, 60)))
    fresh = Recorder(Decoder(decoder.target, decoder.draft))
    recording = fresh.record(encoded(decoder)[:1], options)
    assert len(recording.texts[0].tokens) < len(whole.tokens)
    assert not check(fresh, recording, options).mismatches


def test_a_difference_is_reported_with_its_place(recorder: Recorder, recording: Recording) -> None:
    ids, _ = recording.texts[1].candidates[recording.texts[1].drafted_from[3]][0]
    kept = ids.copy()
    ids[0, 0] = (ids[0, 0] + 1) % 300
    try:
        verdict = check(
            Recorder(Decoder(recorder.decoder.target, recorder.draft)),
            recording,
            replace(sampled(0.0), policy=Policy(FixedThresholds((0.0, 0.0, 0.0)))),
        )
    finally:
        ids[:] = kept
    assert {fault.text for fault in verdict.faults} <= {1}
    assert verdict.faults


def test_candidates_off_the_text_are_recorded_when_a_replay_asks_for_them(recorder: Recorder) -> None:
    recording = recorder.record(encoded(recorder.decoder)[:2], sampled(1.0))
    policy = Policy(HESITANT, TreeShape(4, 3, 16))
    Replay(recording, PRICES, policy, chain=False).run()
    assert not recording.complete
    while not recording.complete:
        recorder.complete(recording)
        texts = Replay(recording, PRICES, policy, chain=False).run()
    assert Summary.of(texts).tokens == sum(len(record.tokens) - 1 for record in recording.texts)


def test_a_step_costs_its_calls_and_the_hosts_work(recording: Recording) -> None:
    none_drafted = Replay(recording, PRICES, Policy(_NoDraft())).run()[0]
    record = none_drafted.record
    expected = [
        PRICES.of(1).slowness.alone * PRICES.costs.verify_ms(1, context=len(record.prompt) + done)
        + PRICES.of(1).host_step_ms
        for done in range(len(record.tokens) - 1)
    ]
    assert none_drafted.milliseconds == pytest.approx(sum(expected))
    assert none_drafted.accept_lengths == [1] * (len(record.tokens) - 1)


class _NoDraft(FixedThresholds):
    """A policy that never drafts."""

    def open(self, pair, temperature):
        planner = FixedThresholds.open(self, pair, temperature)
        return replace(planner, budget=_Resting(planner.budget.thresholds, planner.budget.rule))


class _Resting(FixedBudget):
    drafts = False


def test_texts_in_one_batch_share_calls(recorder: Recorder, recording: Recording) -> None:
    policy = Policy(CHAIN)

    def completed(lanes: int) -> Summary:
        while True:
            texts = Replay(recording, PRICES, policy).run(lanes)
            if recording.complete or not recorder.complete(recording):
                return Summary.of(texts)

    alone, together = completed(1), completed(4)
    assert together.tokens == alone.tokens
    assert together.steps == alone.steps
    assert together.milliseconds < alone.milliseconds


def test_a_trace_changes_nothing_of_the_text(decoder: Decoder) -> None:
    traced = Traced(FixedThresholds())
    prompt = encoded(decoder)[0][1]
    request = decoder.request(prompt, Options(max_new_tokens=8, sampling=Sampling(), policy=Policy(traced)))
    for _ in decoder.run(request):
        pass
    assert [len(outcome.path) for outcome in traced.outcomes] == request.stats.accept_lengths
