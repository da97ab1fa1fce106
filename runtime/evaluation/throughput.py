"""How many tokens a second several texts get together, with and without drafting, and what a joining prompt costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.evaluation.comparison import same_bits


@dataclass(frozen=True, slots=True)
class Mode:
    """So many texts at a time, drafted or not."""

    texts: int
    drafts: bool


@dataclass(slots=True)
class Served:
    """All prompts answered once in a mode."""

    requests: list[Request]
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """New tokens of all texts."""
        return sum(len(request.tokens) for request in self.requests)

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(slots=True)
class Throughput:
    """Rounds of all modes in turn. ``identical`` counts the texts that equal the same text alone, scores included."""

    rounds: list[dict[Mode, Served]] = field(default_factory=list)
    identical: dict[Mode, int] = field(default_factory=dict)

    def ratio(self, mode: Mode, base: Mode) -> float:
        """The median over rounds of one mode's speed over another's."""
        return median(each[mode].speed / each[base].speed for each in self.rounds)

    def speed(self, mode: Mode) -> float:
        """The median over rounds."""
        return median(each[mode].speed for each in self.rounds)


def serve(
    decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options, mode: Mode, memory: CacheMemory | None = None
) -> Served:
    """Answer all prompts, ``mode.texts`` at a time; the next one joins where one has ended.

    Raises:
        Exception: what an engine raised.
    """
    drafted = replace(options, draft=mode.drafts)
    served = Served([decoder.request(prompt, drafted) for prompt in prompts])
    scheduler = Scheduler(mode.texts, memory, offline=True)
    began = time.perf_counter()
    run_all(scheduler, served.requests)
    served.seconds = time.perf_counter() - began
    return served


def run_all(scheduler: Scheduler, requests: Sequence[Request]) -> None:
    """Run requests to their end.

    Raises:
        Exception: what an engine raised.
    """
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        scheduler.step()
    for request in requests:
        if request.error is not None:
            raise request.error


def measure(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: Options,
    texts: Sequence[int],
    rounds: int,
    cached: bool = False,
) -> Iterator[Throughput]:
    """Measure every number of ``texts`` with and without drafting, all in turn; the result grows with each round.

    With ``cached`` the whole blocks of the prompts come from the prefix cache, so that what is measured is decoding.
    """
    modes = [Mode(count, drafts) for count in texts for drafts in (False, True)]
    memory = CacheMemory(prefix_bytes=2**34 if cached else 0)
    for mode in modes:  # bind buffers and open graphs before the clock runs
        serve(decoder, prompts[: mode.texts], replace(options, max_new_tokens=8), mode, memory)
    alone = serve(decoder, prompts, options, Mode(1, drafts=False), memory).requests
    result = Throughput()
    for number in range(rounds):
        order = modes[:: 1 if number % 2 == 0 else -1]
        served = {mode: serve(decoder, prompts, options, mode, memory) for mode in order}
        result.rounds.append(served)
        for mode in modes:
            same = sum(map(same_bits, served[mode].requests, alone))
            result.identical[mode] = min(same, result.identical.get(mode, len(alone)))
        yield result


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds of a running text's steps: usually, and while a prompt of ``prompt_tokens`` joins."""

    prompt_tokens: int
    usual: float
    joining: list[float]

    @property
    def ratios(self) -> list[float]:
        """Each step while the prompt joins, over the usual step; rising."""
        return sorted(seconds / self.usual for seconds in self.joining)


def joining_delay(decoder: Decoder, prompt: Sequence[int], joining: Sequence[int], options: Options) -> Delay:
    """Let ``joining`` join a text that decodes: what each of its steps takes until the prompt is computed."""
    scheduler = Scheduler(2)
    longest = decoder.target.max_length - len(prompt)
    running = decoder.request(prompt, replace(options, max_new_tokens=longest))
    scheduler.add(running)
    while running.left or not running.tokens:
        scheduler.step()

    def step() -> float:
        began = time.perf_counter()
        scheduler.step()
        return time.perf_counter() - began

    usual = median(step() for _ in range(16))
    late = decoder.request(joining, replace(options, max_new_tokens=1))
    scheduler.add(late)
    steps = []
    while not late.finished and not running.finished:
        steps.append(step())
    scheduler.close()
    return Delay(len(joining), usual, steps)
