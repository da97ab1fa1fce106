"""Find the fastest policy for a target and a draft, and keep it as a profile.

The target's text and the draft's candidates are recorded once. Thresholds, depths, lookup, trees and the adaptive
policy are then replayed without running a model, at the measured costs of this machine. Every second source file
(category) is tuned on, the others judge. A profile is written only if it is faster than the default beyond doubt:
the lower end of the 95 % interval over files is above 1. With --policy fixed the default is the published thresholds.

  python -m runtime.tune --target target-17m --prompts demo --out profile.json
  python -m runtime.run --target target-17m --profile profile.json --prompt "import os"
  python -m runtime.tune --target target-17m --prompts demo --temperature 0,1 --check
  python -m runtime.tune --target target-17m --prompts demo --no-exact --trials 200 --out trees.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.commands.recorded import Recorded, add_recording_arguments, note
from runtime.decoding.decoder import Decoder
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.profile import Profile, fingerprint
from runtime.evaluation.replay.exactness import check
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.tuning import Trial, Tuner, Tuning
from runtime.sampling.options import Sampling
from runtime.tree.shape import TreeShape
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError
from s2d_trt.files import write_result

PROG = "python -m runtime.tune"
CHECKED = {
    "published thresholds": (Policy(FixedThresholds()), None),
    "long chain": (Policy(FixedThresholds((0.8, 0.8, 0.0)), TreeShape(5, 1, 60)), None),
    "adaptive": (Policy(Adaptive()), None),
    "tree": (Policy(FixedThresholds(), TreeShape(4, 4, 16)), False),
}
"""What ``--check`` holds against real runs, and whether it decodes exactly."""


def main(argv: Sequence[str]) -> int:
    """Record, replay, choose, write."""
    parser = ArgumentParser(__doc__ or "", PROG)
    add_recording_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the profile is written")
    parser.add_argument(
        "--policy",
        choices=("any", "fixed"),
        default="any",
        help="fixed: fixed policies alone, against the published one",
    )
    parser.add_argument("--check", action="store_true", help="hold replays against real runs, step by step, and end")
    parser.add_argument("--trials", type=positive_int, metavar="N", help="also search N settings of trees with optuna")
    parser.add_argument(
        "--study", metavar="URL", help="with --trials: where optuna keeps them, like sqlite:///study.db (its dashboard)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to a file")
    arguments = parser.parse_args(argv)
    if arguments.out is not None and (arguments.out.is_dir() or not arguments.out.resolve().parent.is_dir()):
        raise OptionError(f"{arguments.out} is a folder or lies in no existing folder; name a file to write")
    recorded = Recorded(arguments)
    if arguments.check:
        return _checked(recorded)
    try:
        tuner = Tuner(recorded.recorder, recorded.recordings, recorded.prices, recorded.chain, note)
    except ValueError as cause:
        raise OptionError(
            'all prompts are of one source file; give them a "category", the file that each is from: half of the files'
            " judge what the others chose"
        ) from cause
    tuning = tuner.run(fixed=arguments.policy == "fixed")
    if arguments.trials is not None:
        from runtime.evaluation.study import search

        tuning.trials.append(search(tuner, arguments.trials, arguments.study))
    recorded.keep()
    print("\n".join(report_lines(tuning)))
    if arguments.json is not None:
        write_result(arguments.json, json.dumps(figures(tuning), indent=1) + "\n")
    if arguments.out is None:
        return 0
    if not tuning.adopted:
        print(f"the default stays: no other policy is faster beyond doubt; {arguments.out} is not written")
        return 0
    pair = recorded.recorder.pair
    Profile(
        fingerprint(pair.target), fingerprint(pair.draft), tuning.best.policy, tuning.best.chain, evidence(tuning)
    ).write(arguments.out)
    print(f"wrote {arguments.out}")
    return 0


def _checked(recorded: Recorded) -> int:
    """Replay real runs step by step; the exit code says whether a difference has no excuse."""
    faults = 0
    for recording in recorded.recordings:
        sampling = Sampling(temperature=recording.temperature, seed=recorded.arguments.seed)
        for name, (policy, exact) in CHECKED.items():
            # A new decoder: what another one learned is not part of the replay.
            recorder = Recorder(Decoder(recorded.decoder.target, recorded.decoder.draft))
            options = replace(recorded.options, sampling=sampling, policy=policy, exact=exact)
            verdict = check(recorder, recording, options)
            faults += len(verdict.faults)
            print(
                f"temperature {recording.temperature:g}, {name}: {verdict.steps - len(verdict.mismatches)} of"
                f" {verdict.steps} steps equal, {len(verdict.faults)} differ without excuse",
                flush=True,
            )
            for mismatch in verdict.mismatches:
                print(f"  text {mismatch.text}, step {mismatch.step}: {mismatch.excuse or 'differs'}")
    return int(faults > 0)


def report_lines(tuning: Tuning) -> list[str]:
    """Every policy on the texts that judge: speed-up over the target alone, gain over the default, regret."""
    held = tuning.held_out
    files = len({tuning.labels[index] for index in held})
    lines = [
        f"{len(tuning.tuned)} texts to tune on; judged on {len(held)} texts of {files} other files",
        f"{'policy':<36} {'speed-up':>8} {'over default':>24} {'accepted':>8} {'regret':>7}",
    ]
    lines += [
        f"{trial.name:<36} {tuning.speedup(trial, held):>7.2f}x {tuning.gain(trial, tuning.default)!s:>24}"
        f" {tuning.accepted(trial, held):>8.2f} {tuning.regret(trial, held):>6.1%}"
        for trial in sorted(tuning.trials, key=lambda trial: -tuning.speedup(trial, held))
    ]
    alone = tuning.alone[held].sum()
    lines += [
        f"{'knowing the text (exits, chains)':<36} {alone / tuning.achievable[held].sum():>7.2f}x",
        f"{'no policy of chains is above':<36} {alone / tuning.bound[held].sum():>7.2f}x",
        f"best on the tuned texts: {tuning.best.name}, {describe(tuning.best)}",
    ]
    return lines


def describe(trial: Trial) -> str:
    """A policy in words."""
    policy = trial.policy
    tree = policy.largest_tree(trial.chain)
    words = [f"depth {tree.depth}, top-k {tree.top_k}, {tree.nodes} nodes"]
    if isinstance(policy.exit, FixedThresholds) and policy.exit.thresholds is not None:
        words.insert(0, "thresholds " + ",".join(f"{threshold:.3g}" for threshold in policy.exit.thresholds))
    return ", ".join([*words, "lookup" if policy.looks_up else "no lookup"])


def figures(tuning: Tuning) -> dict[str, object]:
    """Every trial on the texts that judge, and the speed-up by the first two thresholds at the best depth."""
    held, alone = tuning.held_out, tuning.tokens[tuning.tuned].sum() / tuning.alone[tuning.tuned].sum()
    settings, speeds = tuning.surface
    deepest = settings.depths == settings.depths[speeds.argmax()]
    rows = zip(settings.thresholds[deepest].tolist(), speeds[deepest].tolist(), strict=True)
    return {
        "trials": [
            {
                "policy": trial.name,
                "speedup": tuning.speedup(trial, held),
                "mean_accepted_tokens": tuning.accepted(trial, held),
                "regret": tuning.regret(trial, held),
            }
            for trial in tuning.trials
        ],
        "knowing_the_text": float(tuning.alone[held].sum() / tuning.achievable[held].sum()),
        "bound": float(tuning.alone[held].sum() / tuning.bound[held].sum()),
        "surface": [
            {"first": at[0], "second": at[1] if len(at) > 2 else 0.0, "speedup": speed / alone} for at, speed in rows
        ],
    }


def evidence(tuning: Tuning) -> dict[str, object]:
    """What the profile says of how it was found."""
    held, gain = tuning.held_out, tuning.gain(tuning.best, tuning.default)
    return {
        "policy": tuning.best.name,
        "texts": {"tuned": len(tuning.tuned), "held_out": len(held)},
        "gain_over_default": {"value": gain.value, "low": gain.low, "high": gain.high},
        "predicted_speedup": tuning.speedup(tuning.best, held),
        "mean_accepted_tokens": tuning.accepted(tuning.best, held),
        "regret": tuning.regret(tuning.best, held),
    }


if __name__ == "__main__":
    run_command(PROG, main)
