"""Measures contenders in turn, round after round."""

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
    """One prompt's new tokens, the wall time of their call in seconds with prefill, and the adapter's figures.

    A prompt that was answered together with others has an equal share of their call's time.
    """

    tokens: list[int]
    seconds: float
    figures: dict[str, float]

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return len(self.tokens) / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Outcome:
    """The measured ``rounds``, each with one answer a prompt; ``failure`` is the reason if some are missing."""

    contender: Contender
    rounds: list[list[Answer]] = field(default_factory=list)
    failure: str = ""

    @property
    def speeds(self) -> list[float]:
        """Tokens a second of each round: the mean over prompts; of batches, all tokens over the time of all calls."""
        if self.contender.texts is None:
            return [fmean(answer.speed for answer in answers) for answers in self.rounds]
        return [sum(len(a.tokens) for a in answers) / sum(a.seconds for a in answers) for answers in self.rounds]

    @property
    def speed(self) -> float:
        """Tokens a second of the median round."""
        return median(self.speeds)

    @property
    def tokens(self) -> list[list[int]]:
        """New tokens of each prompt in the first round."""
        return [answer.tokens for answer in self.rounds[0]]

    def figure(self, name: str) -> float | None:
        """Mean of one of the adapter's figures over prompts and rounds, or None."""
        found = [answer.figures[name] for answers in self.rounds for answer in answers if name in answer.figures]
        return fmean(found) if found else None


@dataclass(frozen=True, slots=True)
class Job:
    """The request to every contender: ``prompts`` (token ids), lengths, threads; ``timeout`` is seconds an answer."""

    prompts: Sequence[list[int]]
    new_tokens: int
    threads: int
    temperature: float = 0.0
    timeout: float = 600.0


def prepare(contenders: Sequence[Contender]) -> list[Outcome]:
    """Install and convert; an outcome has a ``failure`` if that is not possible."""
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
    """Measure all contenders ``rounds`` times in the order A B C A B C, so that a slower machine affects all.

    One process at a time holds a model, so that memory and spinning threads of one do not slow another.
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
    if contender.texts is not None:
        return _answer_batches(contender.texts, worker, job, warm)
    for prompt in (job.prompts[0], job.prompts[-1]):
        asked = {"prompt": prompt, "new_tokens": warm, "temperature": job.temperature, "seed": 0}
        worker.ask(asked, job.timeout)
    answers = []
    for number, prompt in enumerate(job.prompts):
        request = {"prompt": prompt, "new_tokens": job.new_tokens, "temperature": job.temperature, "seed": number}
        found = worker.ask(request, job.timeout)
        answers.append(Answer(found["tokens"], found["seconds"], found["figures"]))
    return answers


def _answer_batches(texts: int, worker: Worker, job: Job, warm: int) -> list[Answer]:
    def ask(first: int, prompts: Sequence[list[int]], new_tokens: int) -> list[Answer]:
        seeds = list(range(first, first + len(prompts)))
        request = {"prompts": prompts, "new_tokens": new_tokens, "temperature": job.temperature, "seeds": seeds}
        found = worker.ask(request, job.timeout)
        share = found["seconds"] / len(prompts)
        return [Answer(tokens, share, found["figures"]) for tokens in found["tokens"]]

    # Without its second token a prompt is no prefix of a measured one, whose rows a library could keep and use again.
    ask(0, [[*prompt[:1], *prompt[2:]] for prompt in job.prompts[:texts]], warm)
    starts = range(0, len(job.prompts), texts)
    return [answer for first in starts for answer in ask(first, job.prompts[first : first + texts], job.new_tokens)]


def progress(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)
