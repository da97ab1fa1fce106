"""Everything that only a GPU can tell, in one run: is it right, is it the same, and what does it take.

  numbers    logits of each backend beside those of --reference on the CPU
  outputs    S2D beside the target alone: identical outputs n/N, the margin where they part, the speed-up
  exact      the same with one fixed number of rows in plain and in verifying calls
  calls      milliseconds of a call by its rows, with CUDA graphs and without
  drafting   milliseconds of a depth, and how much of it the host takes; also where the device decides on exits

Bundles built for TensorRT run on it, others in ONNX Runtime on the GPU. The first target is compared with --reference,
the same model built for the CPU; with --calls-only no text is generated: for shapes with random weights.

  python -m export.build --exits 6,9,12 --backend tensorrt --out engines/draft-trt.engine
  python -m export.target --checkpoint engines/demo/target-17m --backend tensorrt --out engines/target-trt.engine
  python -m tests.benchmarks.gpu --pair target-trt,draft-trt --pair target-17m,draft --reference target-17m --out gpu
  python -m tests.benchmarks.gpu --pair llama-7b,draft-7b --calls-only --out shapes
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from runtime import PAPER_TREE, Decoder, FixedThresholds, Options, Policy, Sampling, SortedDraft, Target, TreeShape
from s2d_trt import __version__
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError, S2DError
from tests.benchmarks.internals import (
    CUDA,
    WIDTHS,
    Costs,
    Device,
    Noise,
    Placement,
    Prompt,
    Tree,
    TreeBuilder,
    installed_flavors,
    load_prompts,
    measure,
    open_gpu,
    run_prompts,
)
from tests.benchmarks.tables import table_lines

PROG = "python -m tests.benchmarks.gpu"
CHAIN = TreeShape(depth=3)
TREES = {"chain": CHAIN, "paper": PAPER_TREE}
TEMPERATURES = (0.0, 1.0)
TEXT, ROWS = 48, 9
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and a draft, where they run."""

    target: Target
    draft: SortedDraft

    @classmethod
    def open(cls, names: str, device: Device, cuda_graphs: bool = True) -> Pair:
        """Load ``TARGET,DRAFT`` on a GPU."""
        target, separator, draft = names.partition(",")
        if not separator:
            raise OptionError(f"--pair {names} is not TARGET,DRAFT; give both")
        place = Placement(device=device, cuda_graphs=cuda_graphs)
        return cls(Target.open(find_bundle(target), place), SortedDraft.open(find_bundle(draft), place))


@dataclass(slots=True)
class Report:
    """What was found; ``sections`` are tables."""

    machine: dict[str, str]
    sections: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)

    def add(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Keep a table and show it."""
        self.sections.append((title, rows))
        print("\n".join(table_lines(title, rows)), flush=True)

    def write(self, out: Path) -> None:
        """``OUT.json`` and ``OUT.md``."""
        data = {"machine": self.machine, **dict(self.sections)}
        out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        lines = [f"- {name}: {value}" for name, value in self.machine.items()]
        for title, rows in self.sections:
            lines += table_lines(title, rows)
        out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbers(target: Target, reference: Target) -> dict[str, Any]:
    """Largest difference of logits after a random text and over a tree behind it, and how often the choice differs."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, target.vocab_size, min(TEXT, target.max_length // 2)).tolist()
    parents = np.array([-1, *(int(rng.integers(0, node)) for node in range(1, ROWS))])
    depths = np.zeros(ROWS, np.int64)
    for node in range(1, ROWS):
        depths[node] = depths[parents[node]] + 1
    tree = Tree(rng.integers(0, target.vocab_size, ROWS), parents, depths)
    found = []
    for each in (target, reference):
        slot = each.lease()
        rows = [np.array(slot.prefill(text))]
        logits = slot.verify(tree)
        rows += [np.array(logits[node]) for node in range(ROWS)]
        each.release(slot)
        found.append(np.stack(rows))
    ours, theirs = found
    return {
        "target": target.name,
        "place": target.engine.place,
        "largest difference": float(np.abs(ours - theirs).max()),
        "largest logit": float(np.abs(theirs).max()),
        "same choice": f"{int((ours.argmax(1) == theirs.argmax(1)).sum())}/{len(ours)}",
    }


def outputs(pair: Pair, prompts: Sequence[Prompt], new_tokens: int, exact: bool) -> Iterator[dict[str, Any]]:
    """S2D beside the target alone for each tree and temperature."""
    decoder = Decoder(pair.target, pair.draft)
    for name, tree in TREES.items():
        if exact and tree.top_k > 1:
            continue
        for temperature in TEMPERATURES:
            policy = Policy(FixedThresholds(), tree)
            options = Options(new_tokens, Sampling(temperature, seed=0), policy=policy, exact=exact)
            try:
                summary = run_prompts(decoder, prompts, options, temperature).summary()
            except S2DError as refused:
                yield {"target": pair.target.name, "tree": name, "temperature": temperature, "refused": str(refused)}
                continue
            margins = [difference["margin"] for difference in summary["differences"]]
            yield {
                "target": pair.target.name,
                "place": pair.target.engine.place,
                "tree": name,
                "temperature": temperature,
                "identical": f"{summary['identical']}/{summary['prompts']}",
                "margins": [f"{margin:.1e}" if margin is not None else "-" for margin in margins],
                "alone tokens/s": summary["tokens_per_second"]["alone"],
                "s2d tokens/s": summary["tokens_per_second"]["s2d"],
                "speed-up": summary["speedup"],
                "accepted": summary["mean_accepted_tokens"],
            }


def calls(pair: Pair, costs: Costs, graphs: bool) -> Iterator[dict[str, Any]]:
    """Milliseconds of each engine's call by its rows."""
    engines = {"verify": costs.verify, "head": costs.head}
    engines |= {f"segment {index}": found for index, found in enumerate(costs.segments)}
    for engine, found in engines.items():
        times = {f"{rows} rows": milliseconds for rows, milliseconds in zip(WIDTHS, found, strict=True)}
        yield {"engine": engine, "place": pair.target.engine.place, "CUDA graphs": "yes" if graphs else "no", **times}


def drafting(draft: SortedDraft, decides: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of one depth, and the part of it outside the engines' calls; first exit alone, and all of them."""
    for name, tree in TREES.items():
        if tree.top_k > draft.engines.max_head_rows:
            continue
        for exits, threshold in (("first", 0.0), ("all", 2.0)):
            budget = FixedThresholds((threshold,) * len(draft.exits)).budget(draft.exits)
            sequence = draft.empty_sequence()
            sequence.shape = tree
            text = [token % draft.vocab_size for token in range(1, TEXT + 1)]
            sequence.prefill(text)
            noise = Noise(0, 0.0, draft.vocab_size)
            walls, clocks = [], []
            for _ in range(ROUNDS):
                # As after a step that accepted nothing: the target's own token is the backlog.
                sequence.truncate(TEXT - 1)
                sequence.enqueue(text[-1:])
                before, began = sequence.clock.seconds, time.perf_counter()
                sequence.propose(TreeBuilder(text[-1], tree), budget, noise, tree.depth + 1)
                walls.append((time.perf_counter() - began) / (tree.depth + 1))
                clocks.append((sequence.clock.seconds - before) / (tree.depth + 1))
            draft.release(sequence)
            wall, clock = median(walls), median(clocks)
            yield {
                "place": draft.engines.place,
                "decides": decides,
                "tree": name,
                "exits": exits,
                "ms a depth": wall * 1e3,
                "of it outside calls": (wall - clock) * 1e3,
            }


def main(argv: Sequence[str]) -> None:
    """Measure every pair, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--pair", action="append", required=True, metavar="TARGET,DRAFT", help="may be repeated")
    parser.add_argument("--reference", help="the first target, built for the CPU")
    parser.add_argument("--device", type=Device.parse, default=CUDA, help="cuda or cuda:N (%(default)s)")
    parser.add_argument("--prompts", default="demo", help="as runtime.bench takes them (%(default)s)")
    parser.add_argument("--limit", type=positive_int, default=12, help="use only the first prompts (%(default)s)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=64, help="of each output (%(default)s)")
    parser.add_argument("--calls-only", action="store_true", help="generate no text")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="writes OUT.json and OUT.md")
    options = parser.parse_args(argv)
    if not options.out.resolve().parent.is_dir():
        raise OptionError(f"{options.out} lies in no existing folder; name one that exists")
    if options.device.kind != "cuda":
        raise OptionError("this measures a GPU; give --device cuda or cuda:N")
    gpu = open_gpu(options.device.index)
    report = Report(
        {
            "GPU": f"{gpu.name}, compute capability {gpu.capability}",
            "libraries": ", ".join(f"{name} {version}" for name, version in installed_flavors().items())
            or "no TensorRT",
            "host": platform.processor() or platform.machine(),
            "s2d-trt": __version__,
        }
    )
    print("\n".join(f"{name}: {value}" for name, value in report.machine.items()), flush=True)
    prompts = load_prompts(options.prompts, options.limit)
    pairs = [Pair.open(names, options.device) for names in options.pair]
    reference = Target.open(find_bundle(options.reference)) if options.reference else None
    try:
        _measure(report, options.pair, pairs, reference, prompts, options.max_new_tokens, options.calls_only)
    finally:
        report.write(options.out)
    print(f"wrote {options.out.with_suffix('.json')} and {options.out.with_suffix('.md')}")


def _measure(
    report: Report,
    names: Sequence[str],
    pairs: Sequence[Pair],
    reference: Target | None,
    prompts: Sequence[Prompt],
    new_tokens: int,
    calls_only: bool,
) -> None:
    if reference is not None:
        same = [pair.target for pair in pairs if pair.target.vocab_size == reference.vocab_size]
        report.add("numbers", [numbers(target, reference) for target in same])
    rows = [row for pair in pairs for row in calls(pair, measure(pair.target, pair.draft), graphs=True)]
    for name, pair in zip(names, pairs, strict=True):
        if pair.target.engine.place.startswith("TensorRT"):
            direct = Pair.open(name, pair.target.placement.device or CUDA, cuda_graphs=False)
            rows += calls(direct, measure(direct.target, direct.draft), graphs=False)
    report.add("calls", rows)
    rows = [row for pair in pairs for row in drafting(pair.draft, "host")]
    for pair in pairs:
        if pair.target.engine.place.startswith("TensorRT"):
            place = replace(pair.target.placement, device_cascade=True)
            rows += drafting(SortedDraft(pair.draft.bundle, place), "device")
    report.add("drafting", rows)
    if not calls_only:
        report.add("outputs", [row for pair in pairs for row in outputs(pair, prompts, new_tokens, exact=False)])
        report.add("exact", [row for pair in pairs for row in outputs(pair, prompts, new_tokens, exact=True)])


if __name__ == "__main__":
    run_command(PROG, main)
