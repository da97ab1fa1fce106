"""Several texts on the same engines: turns, cancellation, and errors that end one text alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate, target_alone
from runtime.targets.target import Target
from runtime.text.tokenizer import TextStream
from runtime.tree.shape import TreeShape
from tests.runtime.decoding.cases import SURE, WARM, WIDE


def several(decoder: Decoder, other: Decoder) -> list[tuple[Decoder, Request]]:
    """Requests of different kinds on two targets that share one draft."""
    made = [
        (decoder, [5, 9], Options(30, policy=WIDE)),
        (other, [7] * 70, Options(20, WARM)),
        (decoder, [1, 2, 3] * 30, Options(25, WARM, policy=SURE)),
        (decoder, [44], Options(25, policy=replace(SURE, tree=TreeShape(2, 3, 10)))),
        (other, [5, 9], Options(15, draft=False)),
    ]
    return [(its, its.request(prompt, options)) for its, prompt, options in made]


def take_turns(requests: Sequence[tuple[Decoder, Request]], cancel: dict[int, int] | None = None) -> None:
    """Run every request step by step in turn; ``cancel`` says after how many rounds which one is cancelled."""
    running = {index: decoder.run(request) for index, (decoder, request) in enumerate(requests)}
    rounds = 0
    while running:
        rounds += 1
        for index, steps in list(running.items()):
            if next(steps, None) is None:
                del running[index]
            elif cancel and cancel.get(index) == rounds:
                requests[index][1].cancel()


def test_requests_that_take_turns_give_what_each_gives_alone(decoder: Decoder, other_decoder: Decoder) -> None:
    alone = several(decoder, other_decoder)
    for its, request in alone:
        for _ in its.run(request):
            pass
    together = several(decoder, other_decoder)
    take_turns(together)
    for (_, expected), (_, request) in zip(alone, together, strict=True):
        assert (request.tokens, request.finish_reason) == (expected.tokens, expected.finish_reason)


def test_a_cancelled_request_frees_its_sequences_and_leaves_the_others_intact(
    decoder: Decoder, other_decoder: Decoder
) -> None:
    alone, together = several(decoder, other_decoder), several(decoder, other_decoder)
    take_turns(alone)
    take_turns(together, cancel={0: 2})
    cancelled = together[0][1]
    assert cancelled.finish_reason == "cancelled"
    assert 0 < len(cancelled.tokens) < 30
    assert cancelled.tokens == alone[0][1].tokens[: len(cancelled.tokens)]
    for (_, expected), (_, request) in zip(alone[1:], together[1:], strict=True):
        assert (request.tokens, request.finish_reason) == (expected.tokens, expected.finish_reason)


@pytest.mark.parametrize("ending", ["cancelled", "closed", "finished"])
def test_sequences_are_free_when_a_request_is_over(target: Target, draft: SortedDraft, ending: str) -> None:
    decoder = Decoder(target, draft)
    request = decoder.request([5, 9], Options(6, policy=WIDE))
    steps = decoder.run(request)
    next(steps)
    assert request.sequence is not None
    assert request.drafting is not None
    held, drafting = request.sequence, request.drafting.sequences[0]
    if ending == "cancelled":
        request.cancel()
        assert not any(step.tokens for step in steps)
    elif ending == "closed":
        steps.close()  # type: ignore[attr-defined]
    else:
        list(steps)
    assert request.finish_reason == ("length" if ending == "finished" else "cancelled")
    leased, drafted = target.lease(), draft.empty_sequence()
    assert leased is held
    assert drafted is drafting
    target.release(leased)
    draft.release(drafted)


def test_a_request_cancelled_before_it_runs_does_nothing(decoder: Decoder) -> None:
    request = decoder.request([5, 9])
    request.cancel()
    assert list(decoder.run(request)) == []
    assert (request.tokens, request.finish_reason) == ([], "cancelled")


def test_the_last_step_of_a_cancelled_text_releases_what_was_held_back(decoder: Decoder) -> None:
    full = target_alone(decoder, [5, 9], Options(30, WARM)).text
    request = decoder.request([5, 9], Options(30, WARM, stop=(full[:2] + "\x00",)))
    steps = decoder.run(request)
    shown = [next(steps)]
    assert shown[0].text == ""
    request.cancel()
    shown += steps
    assert shown[-1].tokens == []
    assert "".join(step.text for step in shown) == request.text == decoder.tokenizer.decode(request.tokens)


def test_a_request_may_be_cancelled_from_another_thread(decoder: Decoder) -> None:
    request = decoder.request([5, 9], Options(200))
    steps = decoder.run(request)
    next(steps)
    other = threading.Thread(target=request.cancel)
    other.start()
    other.join()
    assert not any(step.tokens for step in steps)
    assert request.finish_reason == "cancelled"


# An engine that fails


def test_an_engines_error_ends_its_own_request_and_no_other(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("the engine is gone")

    decoder, options = Decoder(target, draft), Options(20, policy=WIDE)
    expected = generate(decoder, [5, 9], options).tokens
    failing, healthy = decoder.request([5, 9], options), decoder.request([5, 9], options)
    failed, going = decoder.run(failing), decoder.run(healthy)
    for steps in (failed, going, failed):
        next(steps)
    with monkeypatch.context() as patch:
        patch.setattr(target.engine, "forward", broken)
        with pytest.raises(RuntimeError, match="the engine is gone"):
            next(failed)
    assert failing.finish_reason == "error"
    assert failing.sequence is None
    assert failing.tokens == expected[: len(failing.tokens)]
    list(going)
    assert healthy.tokens == expected


def test_sequences_are_free_even_if_held_back_text_cannot_be_decoded(
    target: Target, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: TextStream) -> None:
        raise RuntimeError("no text")

    decoder = Decoder(target, draft)
    request = decoder.request([5, 9], Options(20, policy=WIDE))
    steps = decoder.run(request)
    next(steps)
    assert request.drafting is not None
    held, drafting = request.sequence, request.drafting.sequences[0]
    monkeypatch.setattr(TextStream, "finish", broken)
    with pytest.raises(RuntimeError, match="no text"):
        steps.close()  # type: ignore[attr-defined]
    leased, drafted = target.lease(), draft.empty_sequence()
    assert leased is held
    assert drafted is drafting
    target.release(leased)
    draft.release(drafted)
