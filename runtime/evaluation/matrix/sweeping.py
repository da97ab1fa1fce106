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


def measure_all(matrix: Matrix, folder: Path, report: Report) -> Iterator[tuple[Run, bool]]:
    """Each cell's run, and whether it was measured now; run files that are there already are read.

    Raises OptionError where a bundle, a profile or a run file is wrong; what was measured stays.
    """
    prompts = load_prompts(matrix.prompts, matrix.limit)
    cells = [(cell, folder / f"{matrix.key(cell)}.json") for cell in matrix.cells()]
    waiting = sum(_units(matrix, cell, prompts) for cell, path in cells if not path.exists())
    decoder: Decoder | None = None
    loaded: tuple[str, str] | None = None
    for cell, path in cells:
        if path.exists():
            yield Run.read(path), False
            continue
        if loaded != cell.engines:
            target, draft = cell.engines
            decoder, loaded = Decoder.open(target, draft, Placement(threads=matrix.threads)), cell.engines
        assert decoder is not None
        units = _units(matrix, cell, prompts)
        done = 0

        def progress(title: str = cell.title, units: int = units) -> None:
            nonlocal done, waiting
            done, waiting = done + 1, waiting - 1
            report(title, done, units, waiting)

        yield _measure(matrix, cell, prompts, decoder, path, progress), True


def _units(matrix: Matrix, cell: Cell, prompts: list[Prompt]) -> int:
    return matrix.rounds * (1 if cell.texts > 1 else sum(len(prompt.turns) for prompt in prompts))


def _measure(
    matrix: Matrix, cell: Cell, prompts: list[Prompt], decoder: Decoder, path: Path, progress: Callable[[], None]
) -> Run:
    journal = Journal(path.with_suffix(".journal"))
    policy, exact = matrix.policy(cell.policy)
    options = Options(
        max_new_tokens=matrix.max_new_tokens,
        sampling=Sampling(temperature=cell.temperature, seed=matrix.seed),
        policy=policy,
        exact=exact,
    )
    # What earlier cells taught the policy is not part of this one.
    decoder = Decoder(decoder.target, decoder.draft)
    models = {"target": decoder.target, "draft": decoder.draft}
    hashes = {name: hashlib.sha256(model.identity.encode()).hexdigest() for name, model in models.items() if model}
    decoder.prepare(options, sequences=cell.texts)
    place = journal.in_environment(environment(hashes))
    measuring = Measuring(decoder, options, journal)
    if cell.texts > 1:
        measuring.together(prompts, cell.texts, matrix.rounds, progress)
    else:
        measuring.turns(prompts, matrix.rounds, progress)
    settings = matrix.settings(cell)
    run = Run(settings, place, sorted(journal.measured, key=_place), dict(measuring.skipped))
    run.write(path)
    journal.remove()
    return run


def _place(unit: dict[str, str]) -> tuple[int, ...]:
    return tuple(map(int, unit["key"].split("/")))
