"""Measure what each idea of sorted speculative decoding gains: train a draft for each, and benchmark them all.

Every draft starts from the first layers of the target and is trained for the same steps on the same data: by SFT with
6, 9 or 12 layers, by SoFT at exits 6, 9 and 12, and by SoFT with distillation or with feature alignment. Each then runs
with each fixed exit and, if it has several, as a cascade; with a chain and with the paper's tree.

  python -m tests.benchmarks.ablation                    # about an hour on two idle cores; resumable
  python -m tests.benchmarks.ablation --steps 1000 --limit 48 --work long/
  python -m tests.benchmarks.ablation --target target/ --data sharegpt.json --prompts question.jsonl --work mine/

It runs the project's own commands (s2d_trt.training.soft, export.build, export.target, runtime.bench) and writes their
logs, table.md and table.json to the working folder. Run it on an idle machine, since it measures speed-ups.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError
from s2d_trt.training.sources import LIBRARY_EXCLUDE, LIBRARY_HELD_OUT

PROG = "python -m tests.benchmarks.ablation"
TREES = ("chain", "paper")
EXITS = (6, 9, 12)


@dataclass(frozen=True, slots=True)
class Draft:
    """One draft to train; ``{target}`` in its options is replaced by the target's checkpoint."""

    name: str
    title: str
    exits: tuple[int, ...]
    options: tuple[str, ...] = ()

    def policies(self) -> Iterator[tuple[str, str]]:
        """Name and ``--thresholds`` of each way to draft: a fixed exit, or the cascade with the paper's values."""
        for index, exit_ in enumerate(self.exits):
            # No confidence is above 1.1, and every one is above 0.
            thresholds = [1.1] * index + [0.0] * (len(self.exits) - index)
            yield f"exit {exit_}", ",".join(map(str, thresholds))
        if len(self.exits) > 1:
            yield "cascade", ",".join(map(str, [0.5] * (len(self.exits) - 1) + [0.0]))


DRAFTS = (
    *(Draft(f"sft-{exit_}", f"SFT, {exit_} layers", (exit_,)) for exit_ in EXITS),
    Draft("soft", "SoFT", EXITS),
    Draft("soft-distilled", "SoFT, distilled", EXITS, ("--teacher", "{target}", "--distill", "0.7")),
    Draft("soft-aligned", "SoFT, aligned", EXITS, ("--teacher", "{target}", "--distill", "0", "--align", "1")),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of one run of ``runtime.bench``."""

    draft: str
    policy: str
    tree: str
    mean_accepted_tokens: float
    speedup: float
    identical: int
    prompts: int
    exit_shares: dict[str, float]


def main(argv: Sequence[str]) -> None:
    """Train, export and measure what the working folder lacks, then print the table."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument(
        "--target", type=Path, default=Path("engines/demo/target-17m"), metavar="DIR",
        help="checkpoint of at least 12 layers (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, default=Path.home() / ".cache/s2d-trt/ablation", help="working folder (%(default)s)"
    )
    parser.add_argument("--only", help="train and measure just these drafts, separated by commas")
    recipe = parser.add_argument_group("each draft")
    recipe.add_argument("--data", type=Path, help="as soft takes it (default: the demo's, Python's standard library)")
    recipe.add_argument("--steps", type=positive_int, default=250, help="optimiser steps (%(default)s)")
    recipe.add_argument("--batch", type=positive_int, default=8, help="windows in a step (%(default)s)")
    recipe.add_argument("--seq-length", type=positive_int, default=256, help="tokens in a window (%(default)s)")
    recipe.add_argument("--optimizer", choices=("muon", "adamw"), default="muon", help="of the layers (%(default)s)")
    recipe.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    bench = parser.add_argument_group("each measurement")
    bench.add_argument("--prompts", default="demo", help="as the bench takes them (%(default)s)")
    bench.add_argument("--limit", type=positive_int, default=12, help="prompts (%(default)s)")
    bench.add_argument("--max-new-tokens", type=positive_int, default=64, help="tokens for each (%(default)s)")
    bench.add_argument("--threads", type=positive_int, help="CPU threads (default: the physical cores)")
    options = parser.parse_args(argv)

    known = {draft.name: draft for draft in DRAFTS}
    names = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"there is no draft {unknown[0]}; there are {', '.join(known)}")
    if not (options.target / "config.json").is_file():
        raise OptionError(f"{options.target} is no checkpoint; run this in the project's folder or name --target")
    _settle(options)
    measurements = list(_measure(options, [known[name] for name in names]))
    text = table(measurements, options)
    (options.work / "table.md").write_text(text, encoding="utf-8")
    (options.work / "table.json").write_text(json.dumps([asdict(row) for row in measurements], indent=1) + "\n")
    print(text)


def _settle(options: Namespace) -> None:
    """Refuse a folder that holds an ablation with other settings."""
    settings = {key: str(value) for key, value in vars(options).items() if key not in ("work", "only", "debug")}
    path = options.work / "settings.json"
    options.work.mkdir(parents=True, exist_ok=True)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise OptionError(f"{options.work} holds an ablation with other settings; choose another --work")
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _measure(options: Namespace, drafts: Sequence[Draft]) -> Iterator[Measurement]:
    target = options.work / "target.engine"
    if not target.exists():
        _run(options.work, "target", "export.target", "--checkpoint", options.target, "--out", target)
    # All training comes first, so that nothing else runs while speeds are measured.
    for draft in drafts:
        _prepare(options, draft)
    for draft in drafts:
        for policy, thresholds in draft.policies():
            for tree in TREES:
                name = f"{draft.name}-{policy.replace(' ', '-')}-{tree}"
                path = options.work / f"{name}.json"
                if not path.exists():
                    _run(
                        options.work, name, "runtime.bench", "--draft", options.work / f"{draft.name}.engine",
                        "--target", target, "--prompts", options.prompts, "--limit", options.limit,
                        "--max-new-tokens", options.max_new_tokens, "--thresholds", thresholds, "--tree", tree,
                        *(("--threads", options.threads) if options.threads else ()), "--json", path,
                    )  # fmt: skip
                figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[0]
                yield Measurement(
                    draft.title,
                    policy,
                    tree,
                    figures["mean_accepted_tokens"],
                    figures["speedup"],
                    figures["identical"],
                    figures["prompts"],
                    figures["exit_shares"],
                )


def _prepare(options: Namespace, draft: Draft) -> None:
    """Train and export one draft."""
    checkpoint, bundle = options.work / draft.name, options.work / f"{draft.name}.engine"
    if not checkpoint.exists():
        _run(
            options.work, f"{draft.name}-training", "s2d_trt.training.soft", *_data(options),
            "--from-target", options.target, "--exits", ",".join(map(str, draft.exits)), "--steps", options.steps,
            "--batch", options.batch, "--micro-batch", options.batch, "--seq-length", options.seq_length,
            "--optimizer", options.optimizer, "--lr", options.lr, "--held-out-windows", 64,
            *(word.format(target=options.target) for word in draft.options), "--out", checkpoint,
        )  # fmt: skip
    if not bundle.exists():
        _run(options.work, f"{draft.name}-export", "export.build", "--checkpoint", checkpoint, "--out", bundle)


def _data(options: Namespace) -> list[object]:
    if options.data:
        return ["--data", options.data]
    words: list[object] = ["--data", sysconfig.get_paths()["stdlib"], "--suffix", ".py"]
    words += [word for pattern in LIBRARY_EXCLUDE for word in ("--exclude", pattern)]
    return words + [word for pattern in LIBRARY_HELD_OUT for word in ("--held-out", pattern)]


def _run(work: Path, name: str, module: str, *arguments: object) -> None:
    """Run one command of the project and write its output to ``NAME.log``. Raises OptionError if it fails."""
    print(f"{module}: {name}", flush=True)
    log = work / f"{name}.log"
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        # Progress bars end their lines with carriage returns.
        lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise OptionError(f"{module} failed for {name}: {last.strip()} (all of it is in {log})")


def table(measurements: Sequence[Measurement], options: Namespace) -> str:
    """The figures as Markdown: a row for each way to draft, with columns for chain and tree."""
    lines = [
        f"Target {options.target.name}; each draft begins as its first layers and is trained for {options.steps} steps"
        f" of {options.batch * options.seq_length:,} tokens. {options.limit} prompts, greedy,"
        f" {options.max_new_tokens} tokens each.",
        "",
        "| draft | drafting | chain: accepted | speed-up | tree: accepted | speed-up | identical |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: dict[tuple[str, str], dict[str, Measurement]] = {}
    for row in measurements:
        rows.setdefault((row.draft, row.policy), {})[row.tree] = row
    for (draft, policy), trees in rows.items():
        cells = [f"{trees[tree].mean_accepted_tokens:.2f} | {trees[tree].speedup:.2f}x" for tree in TREES]
        same, total = (sum(getattr(row, name) for row in trees.values()) for name in ("identical", "prompts"))
        lines.append(f"| {draft} | {policy} | {' | '.join(cells)} | {same}/{total} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(PROG, main)
