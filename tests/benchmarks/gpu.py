"""All measurements that need a GPU, in one run: parity, identical outputs, and the time of calls.

  numbers    logits of each backend compared with those of --reference on the CPU
  outputs    S2D compared with the target alone: identical outputs n/N, the margin at the first difference, the speed-up
  exact      the same with one fixed number of rows in plain and in verifying calls
  calls      milliseconds of a call by its rows, with and without CUDA graphs
  drafting   milliseconds of a depth and the host's part of it, also with the device deciding which exit answers

Bundles with TensorRT plans run on TensorRT, others in ONNX Runtime on the GPU. --reference is the first target's model
built for the CPU. With --calls-only no text is generated; use it for models with random weights.

  python -m export.build --exits 6,9,12 --backend tensorrt --out engines/draft-trt.engine
  python -m export.target --checkpoint engines/demo/target-17m --backend tensorrt --out engines/target-trt.engine
  python -m tests.benchmarks.gpu --pair target-trt,draft-trt --pair target-17m,draft --reference target-17m --out gpu
  python -m tests.benchmarks.gpu --pair llama-7b,draft-7b --calls-only --out shapes
"""

from __future__ import annotations

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
    processor_identity,
    run_prompts,
    run_together,
)
from tests.benchmarks.tables import table_lines, write_report

PROG = "python -m tests.benchmarks.gpu"
CHAIN = TreeShape(depth=3)
TREES = {"chain": CHAIN, "paper": PAPER_TREE}
TEMPERATURES = (0.0, 1.0)
TEXT, ROWS = 48, 9
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and a draft on their device."""

    target: Target
    draft: SortedDraft

    @classmethod
    def open(cls, names: str, device: Device, cuda_graphs: bool = True) -> Pair:
        """Load ``TARGET,DRAFT`` on a GPU."""
        target, separator, draft = names.partition(",")
        if not separator:
            raise OptionError(f"--pair {names} is not TARGET,DRAFT; give both")
        placement = Placement(device=device, cuda_graphs=cuda_graphs)
        return cls(Target.open(find_bundle(target), placement), SortedDraft.open(find_bundle(draft), placement))


@dataclass(slots=True)
class Report:
    """The measured tables, ``sections``, and a description of the machine."""

    machine: dict[str, str]
    sections: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)

    def add(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Keep a table and print it."""
        self.sections.append((title, rows))
        print("\n".join(table_lines(title, rows)), flush=True)

    def write(self, out: Path) -> None:
        """Write ``OUT.json`` and ``OUT.md``."""
        lines = [f"- {name}: {value}" for name, value in self.machine.items()]
        for title, rows in self.sections:
            lines += table_lines(title, rows)
        write_report(out, lines, {"machine": self.machine, **dict(self.sections)})


def numbers(target: Target, reference: Target) -> dict[str, Any]:
    """Compare logits after a random text and at each node of a tree after it: largest difference, same choices."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, target.vocab_size, min(TEXT, target.max_length // 2)).tolist()
    parents = np.array([-1, *(int(rng.integers(0, node)) for node in range(1, ROWS))])
    depths = np.zeros(ROWS, np.int64)
    for node in range(1, ROWS):
        depths[node] = depths[parents[node]] + 1
    tree = Tree(rng.integers(0, target.vocab_size, ROWS), parents, depths)
    found = []
    for each in (target, reference):
        sequence = each.lease()
        rows = [np.array(sequence.prefill(text))]
        logits = sequence.verify(tree)
        rows += [np.array(logits[node]) for node in range(ROWS)]
        each.release(sequence)
        found.append(np.stack(rows))
    ours, theirs = found
    return {
        "target": target.name,
        "place": target.engine.location,
        "largest difference": float(np.abs(ours - theirs).max()),
        "largest logit": float(np.abs(theirs).max()),
        "same choice": f"{int((ours.argmax(1) == theirs.argmax(1)).sum())}/{len(ours)}",
    }


def outputs(pair: Pair, prompts: Sequence[Prompt], new_tokens: int, exact: bool) -> Iterator[dict[str, Any]]:
    """Compare S2D with the target alone for each tree and temperature; with ``exact`` for chains only."""
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
                "place": pair.target.engine.location,
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
        yield {
            "engine": engine,
            "place": pair.target.engine.location,
            "CUDA graphs": "yes" if graphs else "no",
            **times,
        }


def drafting(draft: SortedDraft, decides: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of one depth, and the part of it outside the engines' calls, with the first exit and with all."""
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
                before, began = draft.engines.clock.seconds, time.perf_counter()
                run_together([sequence.propose(TreeBuilder(text[-1], tree), budget, noise, tree.depth + 1)])
                walls.append((time.perf_counter() - began) / (tree.depth + 1))
                clocks.append((draft.engines.clock.seconds - before) / (tree.depth + 1))
            draft.release(sequence)
            wall, clock = median(walls), median(clocks)
            yield {
                "place": draft.engines.location,
                "decides": decides,
                "tree": name,
                "exits": exits,
                "ms a depth": wall * 1e3,
                "of it outside calls": (wall - clock) * 1e3,
            }


def main(argv: Sequence[str]) -> None:
    """Measure every pair and write the report."""
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
        raise OptionError(f"--out {options.out}: its folder does not exist; make it or name another")
    if options.device.kind != "cuda":
        raise OptionError("this measures a GPU; give --device cuda or cuda:N")
    gpu = open_gpu(options.device.index)
    report = Report(
        {
            "GPU": f"{gpu.name}, compute capability {gpu.capability}",
            "libraries": ", ".join(f"{name} {version}" for name, version in installed_flavors().items())
            or "no TensorRT",
            "host": processor_identity().splitlines()[0],
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
        if pair.target.engine.location.startswith("TensorRT"):
            direct = Pair.open(name, pair.target.placement.device or CUDA, cuda_graphs=False)
            rows += calls(direct, measure(direct.target, direct.draft), graphs=False)
    report.add("calls", rows)
    rows = [row for pair in pairs for row in drafting(pair.draft, "host")]
    for pair in pairs:
        if pair.target.engine.location.startswith("TensorRT"):
            placement = replace(pair.target.placement, device_cascade=True)
            rows += drafting(SortedDraft(pair.draft.bundle, placement), "device")
    report.add("drafting", rows)
    if not calls_only:
        report.add("outputs", [row for pair in pairs for row in outputs(pair, prompts, new_tokens, exact=False)])
        report.add("exact", [row for pair in pairs for row in outputs(pair, prompts, new_tokens, exact=True)])


if __name__ == "__main__":
    run_command(PROG, main)
