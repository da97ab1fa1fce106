"""Predict the speed-up of a target and a draft from a few recorded texts and what calls cost.

The texts are recorded once (8 prompts are enough for a first answer, 24 are better) and replayed with the policy. The
prediction is of decoding; prompts cost the same with and without a draft. Beside it stand the textbook's formula, which
takes every token for equally likely to be accepted, and what the last other pair was predicted to gain here.
--measure-prompts holds all three against real runs on other prompts.

  python -m runtime.predict --target target-17m --prompts demo --limit 8
  python -m runtime.predict --target target-17m --prompts demo --limit 8 --measure-prompts 8 --json prediction.json
  python -m runtime.predict --target target-17m --prompts demo --limit 8 --lanes 1,2,4,8,16
  python -m runtime.predict --target target-17m --prompts demo --limit 8 --hardware other.json

Hardware is a JSON file: bandwidth (bytes/ms), peak (multiply-adds/ms), launch (ms a call) and host (the time of
the host's work over this machine's). --write-hardware writes this machine's.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from runtime.commands.arguments import add_drafting_arguments, check_profile, drafting_policy
from runtime.commands.recorded import Recorded, add_recording_arguments, note
from runtime.decoding.decoder import Decoder
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import generate, target_alone, warm_up
from runtime.evaluation.last_pair import Gained, last_pair
from runtime.evaluation.prediction import Predicted, break_even, constant_acceptance, predict
from runtime.evaluation.prompts import load_prompts
from runtime.evaluation.replay.recording import Recording
from runtime.evaluation.roofline import Hardware, Sizes, elsewhere, here
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from s2d_trt.cli import ArgumentParser, comma_ints, positive_int, run_command
from s2d_trt.errors import CapacityError, OptionError
from s2d_trt.files import write_result

PROG = "python -m runtime.predict"


def main(argv: Sequence[str]) -> None:
    """Record, replay, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    add_recording_arguments(parser, policy_too=True)
    add_drafting_arguments(parser)
    parser.add_argument("--lanes", type=comma_ints, default=(1,), metavar="N,N,...", help="texts at a time (1)")
    parser.add_argument("--measure-prompts", type=positive_int, metavar="N", help="also run N further prompts, compare")
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="predict for other hardware")
    parser.add_argument("--write-hardware", type=Path, metavar="FILE", help="write what this machine is like")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to a file")
    arguments = parser.parse_args(argv)
    if min(arguments.lanes) < 1:
        raise OptionError("--lanes are numbers of texts, at least 1")
    policy = drafting_policy(arguments)
    recorded = Recorded(arguments, arguments.lanes)
    check_profile(recorded.decoder, arguments)
    _hardware(recorded, arguments)
    figures: dict[str, Any] = {"predictions": [], "compared": []}
    for recording in recorded.recordings:
        predictions = [
            predict(recorded.recorder, recording, recorded.prices, policy, texts, recorded.chain)
            for texts in arguments.lanes
        ]
        before = None if arguments.hardware else _last_pair(recorded, recording, predictions[0], policy)
        print("\n".join(report_lines(recorded, recording, predictions, before)))
        figures["predictions"] += [_described(recording, each) for each in predictions]
        if arguments.measure_prompts is not None:
            figures["compared"] += _compared(recorded, recording, policy, before)
    recorded.keep()
    if arguments.json is not None:
        _write(arguments.json, json.dumps(figures, indent=1) + "\n")


def _hardware(recorded: Recorded, arguments: Namespace) -> None:
    """Write this machine's hardware, or take the prices of another's."""
    if arguments.hardware is None and arguments.write_hardware is None:
        return
    target, draft = recorded.decoder.target, recorded.recorder.draft
    if not isinstance(target, Target):
        raise OptionError("other hardware is predicted for bundles only, not for TensorRT-LLM engines")
    sizes = Sizes.of(target.bundle, draft.bundle)
    if arguments.write_hardware is not None:
        _write(arguments.write_hardware, here(recorded.prices.costs, sizes).to_json())
    if arguments.hardware is not None:
        recorded.prices = elsewhere(recorded.prices, sizes, Hardware.read(arguments.hardware))


def _last_pair(recorded: Recorded, recording: Recording, predicted: Predicted, policy: Policy) -> Gained | None:
    target, draft = recorded.decoder.target, recorded.recorder.draft
    gained = Gained((target.identity, draft.identity), f"{target.name} with {draft.name}", predicted.speedup.value)
    return last_pair(gained, f"{recording.temperature}", f"{predicted.texts}", f"{policy}")


def report_lines(
    recorded: Recorded, recording: Recording, predictions: Sequence[Predicted], before: Gained | None
) -> list[str]:
    """The predictions in words, beside the simplest ones."""
    textbook = constant_acceptance(recording, recorded.prices)
    name = recorded.decoder.target.name
    lines = [f"{name}, temperature {recording.temperature:g}, from {len(recording.texts)} texts"]
    lines += [
        f"  {each.texts:>3} at a time: speed-up {each.speedup} with 90 %, {each.tokens_per_second:.1f} tokens/s"
        f" ({each.alone_per_second:.1f} without): {each.verdict}"
        for each in predictions
    ]
    last = f"; the last pair ({before.name}) had {before.speedup:.2f}" if before else ""
    lines.append(f"  the formula of constant acceptance says {textbook:.2f}{last}")
    if len(predictions) > 1:
        stops = break_even(predictions)
        lines.append(f"  drafting stops to pay at {stops} texts" if stops else "  drafting pays for all of these")
    return lines


def _compared(recorded: Recorded, recording: Recording, policy: Policy, last: Gained | None) -> list[dict[str, Any]]:
    """Run prompts behind the recorded ones, drafted and alone in turn, and hold the prediction against them."""
    arguments = recorded.arguments
    known = arguments.limit or 0
    prompts = load_prompts(arguments.prompts)[known : known + arguments.measure_prompts]
    if not prompts:
        raise OptionError("no prompts are left to measure; record fewer with --limit")
    sampling = Sampling(temperature=recording.temperature, seed=arguments.seed)
    options = replace(recorded.options, sampling=sampling, policy=policy)
    decoder = Decoder(recorded.decoder.target, recorded.decoder.draft)
    fresh: list[tuple[str, Sequence[int]]] = []
    measured: list[float] = []
    spent = {"ours": 0.0, "theirs": 0.0}
    for number, prompt in enumerate(prompts, 1):
        try:
            ids = decoder.request(prompt.turns[0], options).prompt
        except CapacityError:
            continue
        note(f"measuring {number}/{len(prompts)}")
        if not fresh:
            warm_up(decoder, ids, options)
        alone = target_alone(decoder, ids, options) if number % 2 else None
        drafted = generate(decoder, ids, options)
        alone = alone or target_alone(decoder, ids, options)
        ours, theirs = (request.stats.total - request.stats.prefill for request in (drafted, alone))
        if len(drafted.tokens) > 1:
            fresh.append((prompt.category, ids))
            measured.append(theirs / ours)
            spent = {"ours": spent["ours"] + ours, "theirs": spent["theirs"] + theirs}
    if not measured:
        raise OptionError("none of the further prompts fits; use shorter prompts")
    # The same prompts, recorded: what the cost model alone is wrong by.
    again = recorded.recorder.record(fresh, options)
    costs_only = predict(recorded.recorder, again, recorded.prices, policy, 1, recorded.chain)
    before = predict(recorded.recorder, recording, recorded.prices, policy, 1, recorded.chain, len(measured))
    total = spent["theirs"] / spent["ours"]
    errors = [abs(a / b - 1) for a, b in zip(costs_only.by_text, measured, strict=True)]
    inside = before.speedup.low <= total <= before.speedup.high
    textbook = constant_acceptance(recording, recorded.prices)
    print(
        f"  measured on {len(measured)} other prompts: {total:.2f}; predicted {before.speedup}"
        f" ({before.speedup.value / total - 1:+.1%}, {'inside' if inside else 'outside'} the interval),"
        f" formula {textbook / total - 1:+.1%}"
        + (f", as the last pair {last.speedup / total - 1:+.1%}" if last else "")
        + "\n"
        f"  cost model, prompt by prompt: median error {median(errors):.1%}"
    )
    pairs = zip(costs_only.by_text, measured, strict=True)
    return [{"run": recorded.decoder.target.name, "predicted": a, "measured": b} for a, b in pairs]


def _described(recording: Recording, each: Predicted) -> dict[str, Any]:
    return {
        "temperature": recording.temperature,
        "texts": each.texts,
        "speedup": {"value": each.speedup.value, "low": each.speedup.low, "high": each.speedup.high},
        "tokens_per_second": each.tokens_per_second,
        "verdict": each.verdict,
    }


def _write(path: Path, text: str) -> None:
    write_result(path, text)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_command(PROG, main)
