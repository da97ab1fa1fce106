"""Measuring all cells of a matrix, continuing where an earlier process stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.evaluation.matrix.measuring import Measuring
from runtime.evaluation.matrix.plan import Cell, Matrix
from runtime.evaluation.matrix.runs import Journal, Run, environment
from runtime.evaluation.prompts import Prompt, load_prompts
from runtime.sampling.options import Sampling

Report = Callable[[str, int, int, int], None]


class Sweep:
    """The cells of a matrix with their run files in ``folder``, and how many units are left to measure."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        self.matrix, self.prompts = matrix, load_prompts(matrix.prompts, matrix.limit)
        self.cells = [(cell, folder / f"{matrix.key(cell)}.json") for cell in matrix.cells()]
        self.left = sum(self.units(cell) for cell, path in self.cells if not path.exists())

    def units(self, cell: Cell) -> int:
        """Units of work of a cell."""
        return self.matrix.rounds * (1 if cell.texts > 1 else sum(len(prompt.turns) for prompt in self.prompts))


def measure_all(matrix: Matrix, folder: Path, report: Report) -> Iterator[tuple[Run, bool]]:
    """Each cell's run, and whether it was measured now; run files that are there already are read.

    Raises OptionError where a bundle, a profile or a run file is wrong; what was measured stays.
    """
    sweep, machine = Sweep(matrix, folder), Machine()
    for cell, path in sweep.cells:
        if path.exists():
            yield Run.read(path), False
            continue
        units = sweep.units(cell)
        done = 0

        def progress(title: str = cell.title, units: int = units) -> None:
            nonlocal done
            done, sweep.left = done + 1, sweep.left - 1
            report(title, done, units, sweep.left)

        notes = path.with_suffix(".journal")
        run = machine.measure(matrix, cell, sweep.prompts, notes, progress)
        run.write(path)
        notes.unlink()  # the run file holds everything now
        yield run, True


class Machine:
    """Measures cells here. The engines stay open from one cell to the next of the same engines."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._engines: tuple[str, str, int | None] | None = None

    def measure(
        self,
        matrix: Matrix,
        cell: Cell,
        prompts: list[Prompt],
        notes: Path,
        progress: Callable[[], None] = lambda: None,
    ) -> Run:
        """Measure one cell, or go on behind what the journal ``notes`` has of it."""
        journal = Journal(notes)
        policy, exact = matrix.policy(cell.policy)
        options = Options(
            max_new_tokens=matrix.max_new_tokens,
            sampling=Sampling(temperature=cell.temperature, seed=matrix.seed),
            policy=policy,
            exact=exact,
        )
        decoder = self._opened(cell, matrix.threads)
        assert decoder.draft is not None
        identities = {"target": decoder.target.identity, "draft": decoder.draft.identity}
        matrix.check(cell.policy, **identities)
        hashes = {name: hashlib.sha256(identity.encode()).hexdigest() for name, identity in identities.items()}
        decoder.prepare(options, sequences=cell.texts)
        place = journal.in_environment(environment(hashes))
        measuring = Measuring(decoder, options, journal)
        if cell.texts > 1:
            measuring.together(prompts, cell.texts, matrix.rounds, progress)
        else:
            measuring.turns(prompts, matrix.rounds, progress)
        units = sorted(journal.measured, key=_place)
        return Run(matrix.settings(cell), place, units, dict(measuring.skipped))

    def _opened(self, cell: Cell, threads: int | None) -> Decoder:
        """A new decoder: what earlier cells taught the policy is not part of this one."""
        engines = (*cell.engines, threads)
        if self._decoder is None or engines != self._engines:
            self._decoder, self._engines = Decoder.open(*cell.engines, Placement(threads=threads)), engines
        return Decoder(self._decoder.target, self._decoder.draft)


def _place(unit: dict[str, str]) -> tuple[int, ...]:
    return tuple(map(int, unit["key"].split("/")))
