"""Contenders in turn, round after round: seconds, tokens, and whether the tokens are the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from tests.benchmarks.peers.catalogue import Contender
from tests.benchmarks.peers.process import PeerError, Worker

WARM_UP = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's new tokens, and the wall time of the call that gave them, prefill included."""

    tokens: list[int]
    seconds: float
    figures: dict[str, float]

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return len(self.tokens) / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Outcome:
    """``rounds`` of answers, one for each prompt; ``failure`` says why there are no more."""

    contender: Contender
    rounds: list[list[Answer]] = field(default_factory=list)
    failure: str = ""

    @property
    def speeds(self) -> list[float]:
        """Of each round the mean over prompts, in tokens a second."""
        return [fmean(answer.speed for answer in answers) for answers in self.rounds]

    @property
    def speed(self) -> float:
        """The median round's."""
        return median(self.speeds)

    @property
    def tokens(self) -> list[list[int]]:
        """Of each prompt, in the first round."""
        return [answer.tokens for answer in self.rounds[0]]

    def figure(self, name: str) -> float | None:
        """Mean of what the adapter itself reports, over prompts and rounds."""
        found = [answer.figures[name] for answers in self.rounds for answer in answers if name in answer.figures]
        return fmean(found) if found else None


@dataclass(frozen=True, slots=True)
class Job:
    """What every contender is asked: the same ``prompts`` (token ids), lengths, threads and seed."""

    prompts: Sequence[list[int]]
    new_tokens: int
    threads: int
    temperature: float = 0.0
    timeout: float = 600.0


def prepare(contenders: Sequence[Contender]) -> list[Outcome]:
    """Install and convert; whoever cannot take part has a failure."""
    outcomes = [Outcome(contender) for contender in contenders]
    broken: dict[str, str] = {}
    for outcome in outcomes:
        contender = outcome.contender
        environment = contender.environment.name if contender.environment else ""
        if environment in broken:
            outcome.failure = broken[environment]
            continue
        try:
            if contender.environment is not None:
                contender.environment.install()
        except PeerError as error:
            outcome.failure = broken[environment] = str(error)
            continue
        try:
            contender.prepare()
        except PeerError as error:
            outcome.failure = str(error)
    return outcomes


def measure(outcomes: Sequence[Outcome], job: Job, rounds: int, show: Callable[[str], None] | None = None) -> None:
    """Let all contenders answer ``rounds`` times, A B C A B C: a machine that slows down slows everybody.

    One process at a time holds a model, so that nobody's memory or spinning threads stand in another's way.
    """
    for number in range(rounds):
        worker: Worker | None = None
        command: list[str] = []
        try:
            for outcome in outcomes:
                if outcome.failure:
                    continue
                contender = outcome.contender
                if show is not None:
                    show(f"round {number + 1}/{rounds}: {contender.name}")
                if worker is None or contender.command != command:
                    if worker is not None:
                        worker.close()
                    worker, command = contender.start(), contender.command
                try:
                    outcome.rounds.append(_answer(contender, worker, job))
                except PeerError as error:
                    outcome.failure = str(error)
                    worker.close()
                    worker = None
        finally:
            if worker is not None:
                worker.close()


def _answer(contender: Contender, worker: Worker, job: Job) -> list[Answer]:
    contender.open(worker, job.threads, job.timeout)
    warm = min(WARM_UP, job.new_tokens)
    for prompt in (job.prompts[0], job.prompts[-1]):
        asked = {"prompt": prompt, "new_tokens": warm, "temperature": job.temperature, "seed": 0}
        worker.ask(asked, job.timeout)
    answers = []
    for number, prompt in enumerate(job.prompts):
        request = {"prompt": prompt, "new_tokens": job.new_tokens, "temperature": job.temperature, "seed": number}
        found = worker.ask(request, job.timeout)
        answers.append(Answer(found["tokens"], found["seconds"], found["figures"]))
    return answers


def progress(line: str) -> None:
    """A line on stderr."""
    print(line, file=sys.stderr, flush=True)
