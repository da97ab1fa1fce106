"""Compiling every graph of a bundle: options, query lengths, and one process for each graph."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from export.bundle import BundleWriter
from export.precision import FP32
from export.tensorrt.isolation import DiedError, StalledError, isolated
from export.tensorrt.plan import (
    CompileError,
    PlanReport,
    PlanRequest,
    check_capabilities,
    compile_plan,
    find_flavor,
    gpu_compute_capability,
    out_of_memory,
)
from s2d_trt import names
from s2d_trt.errors import OptionError
from s2d_trt.manifest import SCRATCH_ROWS, Manifest, PlanEntry, QueryProfile

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How to compile; ``flavor`` and ``version`` are those of a builder that is installed.

    ``row_profile`` gives calls of a single row a profile of their own.
    """

    flavor: str
    version: str
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    tree_nodes: int = 64
    prefill_chunk: int = 128
    row_profile: bool = False
    log_level: str = "none"

    @classmethod
    def choose(cls, flavor: str | None = None, **options: object) -> PlanOptions:
        """The options for the builder asked for, or for what is installed.

        Raises:
            OptionError: nothing is installed, or the options do not fit it.
        """
        name, version = find_flavor(flavor)
        return cls(name, version, **options)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for flag, rows in (("--tree-nodes", self.tree_nodes), ("--prefill-chunk", self.prefill_chunk)):
            if not 2 <= rows <= SCRATCH_ROWS:
                raise OptionError(f"{flag} {rows} is not between 2 and {SCRATCH_ROWS}, the spare rows of a cache")
        check_capabilities(self.flavor, self.compute_capabilities)

    def profiles(self, graph: str, lanes: int) -> tuple[QueryProfile, ...]:
        """Query lengths to optimise ``graph`` for: a tree, which includes single rows, and a chunk of the prompt.

        With several ``lanes`` a chunk has other texts' rows beside it. The draft's head runs on the frontiers of trees
        only, never on a chunk.
        """
        tree, chunk, profiles = self.tree_nodes, self.prefill_chunk, []
        if lanes > 1:
            chunk += tree
        if self.row_profile:
            profiles.append(QueryProfile(1, 1, 1))
        profiles.append(QueryProfile(len(profiles) + 1, tree, tree))
        if chunk > tree and graph != names.HEAD:
            profiles.append(QueryProfile(tree + 1, chunk, chunk))
        return tuple(profiles)


def compile_graphs(
    manifest: Manifest, directory: Path, writer: BundleWriter, options: PlanOptions, log: Log
) -> Manifest:
    """Compile every graph in ``directory``, each in a process of its own; the manifest with the plans in it.

    Raises:
        CompileError: a graph was refused, or memory ran out.
        OptionError: the graphs have another layout than TensorRT's.
    """
    if not manifest.cache.slots:
        raise OptionError(
            f"bundle {manifest.name} has cache layout {manifest.cache.layout}, which TensorRT cannot update in place;"
            " build it with --backend tensorrt"
        )
    plans = tuple(_compile(manifest, directory, writer, options, log))
    total = sum(plan.bytes for plan in plans)
    log(f"plans    {total / 2**20:.1f} MiB, {options.flavor} {options.version}")
    replaced = {plan.file for plan in manifest.plans}
    kept = {name: entry for name, entry in manifest.files.items() if name not in replaced}
    built_with = manifest.built_with | {options.flavor: options.version}
    return dataclasses.replace(manifest, plans=plans, files=kept | writer.files, built_with=built_with)


def _compile(
    manifest: Manifest, directory: Path, writer: BundleWriter, options: PlanOptions, log: Log
) -> Iterator[PlanEntry]:
    native = gpu_compute_capability() if options.flavor == "tensorrt" else None
    capabilities = (native,) if native else options.compute_capabilities
    for graph, file in sorted(manifest.graphs.items()):
        request = PlanRequest(
            graph=graph,
            model=directory / file,
            out=writer.scratch(f"{graph}.plan"),
            flavor=options.flavor,
            profiles=options.profiles(graph, max(manifest.lanes)),
            compute_capabilities=options.compute_capabilities,
            weight_streaming=options.weight_streaming,
            decomposable=manifest.precision == FP32.name,
            lanes=max(manifest.lanes),
            log_level=options.log_level,
            progress=sys.stderr.isatty(),
        )
        report, peak = _isolated(request)
        lengths = ", ".join(f"{p.min}-{p.max}" for p in request.profiles)
        log(
            f"compile  {graph}: {report.bytes / 2**20:.1f} MiB for {lengths} rows in {report.seconds:.1f} s,"
            f" {peak / 2**20:.0f} MiB of memory"
        )
        yield PlanEntry(
            file=writer.adopt(f"{graph}.plan", request.out),
            graph=graph,
            flavor=options.flavor,
            builder_version=options.version,
            compute_capabilities=capabilities,
            profiles=request.profiles,
            bytes=report.bytes,
            memory_bytes=report.weight_bytes,
            activation_bytes=report.activation_bytes,
            weight_format=manifest.weight_format,
            weight_streaming=options.weight_streaming,
        )


def _isolated(request: PlanRequest) -> tuple[PlanReport, int]:
    try:
        return isolated(compile_plan, request)
    except StalledError as cause:
        raise out_of_memory(request.graph) from cause
    except DiedError as cause:
        if cause.starved:
            raise out_of_memory(request.graph) from cause
        raise CompileError(
            f"{request.flavor} crashed on {request.graph} ({cause}); look closer with --builder-log verbose"
        ) from cause
