"""Measuring the cells of a matrix on the machines of a Ray cluster, one cell at a time on each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.evaluation.matrix.plan import Cell, Matrix
from runtime.evaluation.matrix.runs import Run
from runtime.evaluation.matrix.sweeping import Machine, Report, Sweep
from runtime.evaluation.prompts import Prompt
from s2d_trt.errors import OptionError


class RemoteMachine:
    """A machine of the cluster. The actor takes all of its processors, so Ray places nothing beside a measurement."""

    def __init__(self) -> None:
        self.machine = Machine()

    def measure(self, matrix: Matrix, cell: Cell, prompts: list[Prompt]) -> Run:
        """Measure a cell."""
        with tempfile.TemporaryDirectory() as folder:
            return self.machine.measure(matrix, cell, prompts, Path(folder, "journal"))


def measure_on_cluster(matrix: Matrix, folder: Path, report: Report, address: str) -> Iterator[tuple[Run, bool]]:
    """As ``measure_all``, on every machine of the cluster at ``address``, or ``local`` for this machine alone.

    Bundles are found under the same names on every machine. A run file is written when its cell is measured, so what a
    killed process loses are the cells under way.

    Raises:
        OptionError: Ray is not installed or not reached, or what ``measure_all`` raises it for.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError as cause:
        raise OptionError("Ray is not installed; pip install 's2d-trt[ray]'") from cause
    sweep = Sweep(matrix, folder)
    waiting = []
    for cell, path in sweep.cells:
        if path.exists():
            yield Run.read(path), False
        else:
            waiting.append((cell, path))
    if not waiting:
        return
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError, RayError) as cause:
        raise OptionError(f"there is no Ray cluster at {address}; start one with ray start, or name local") from cause
    try:
        idle: list[Any] = []
        for node in ray.nodes():
            if node["Alive"] and (processors := node["Resources"].get("CPU")):
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                idle.append(ray.remote(RemoteMachine).options(num_cpus=processors, scheduling_strategy=here).remote())
        running: dict[Any, tuple[Any, Cell, Path]] = {}
        while waiting or running:
            while waiting and idle:
                cell, path = waiting.pop(0)
                machine = idle.pop()
                running[machine.measure.remote(matrix, cell, sweep.prompts)] = machine, cell, path
            (done, *_), _ = ray.wait(list(running))
            machine, cell, path = running.pop(done)
            try:
                run: Run = ray.get(done)
            except RayTaskError as cause:
                raise cause.cause from None
            idle.append(machine)
            run.write(path)
            units = sweep.units(cell)
            sweep.left -= units
            report(cell.title, units, units, sweep.left)
            yield run, True
    finally:
        ray.shutdown()
