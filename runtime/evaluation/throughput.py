"""How many tokens a second several texts get together, with and without drafting, and what a joining prompt costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from runtime.decoding.decoder import Decoder
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
    """All prompts answered once in a mode.

    ``decoding`` counts the steps in which every place was taken and no prompt was computed: their tokens and seconds.
    """

    requests: list[Request]
    seconds: float = 0.0
    decoding: tuple[int, float] = (0, 0.0)

    @property
    def tokens(self) -> int:
        """New tokens of all texts."""
        return sum(len(request.tokens) for request in self.requests)

    @property
    def speed(self) -> float:
        """Tokens a second, prefill included."""
        return self.tokens / self.seconds

    @property
    def decoding_speed(self) -> float:
        """Tokens a second while all texts decode; 0 where that never happened."""
        tokens, seconds = self.decoding
        return tokens / seconds if seconds else 0.0


@dataclass(slots=True)
class Throughput:
    """Rounds of all modes in turn. ``identical`` counts the texts that equal the same text alone, scores included."""

    rounds: list[dict[Mode, Served]] = field(default_factory=list)
    identical: dict[Mode, int] = field(default_factory=dict)

    def ratio(self, mode: Mode, base: Mode, speed: Callable[[Served], float] = lambda served: served.speed) -> float:
        """The median over rounds of one mode's speed over another's; 0 where one of them was not measured."""
        pairs = [(speed(each[mode]), speed(each[base])) for each in self.rounds]
        return median(ours / theirs if theirs else 0.0 for ours, theirs in pairs)

    def speed(self, mode: Mode) -> float:
        """The median over rounds."""
        return median(each[mode].speed for each in self.rounds)


def serve(decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options, mode: Mode) -> Served:
    """Answer all prompts, ``mode.texts`` at a time; the next one joins where one has ended."""
    drafted = replace(options, draft=mode.drafts)
    served = Served([decoder.request(prompt, drafted) for prompt in prompts])
    scheduler = Scheduler(mode.texts)
    for request in served.requests:
        scheduler.add(request)
    began = time.perf_counter()
    while scheduler.busy:
        running = list(scheduler.running)
        full = len(running) == mode.texts and not any(request.left for request in running)
        started = time.perf_counter()
        steps = scheduler.step()
        if full:
            tokens, seconds = served.decoding
            gained = sum(len(step.tokens) for _, step in steps)
            served.decoding = tokens + gained, seconds + time.perf_counter() - started
    served.seconds = time.perf_counter() - began
    for request in served.requests:
        if request.error is not None:
            raise request.error
    return served


def measure(
    decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options, texts: Sequence[int], rounds: int
) -> Iterator[Throughput]:
    """Measure every number of ``texts`` with and without drafting, all in turn; the result grows with each round."""
    modes = [Mode(count, drafts) for count in texts for drafts in (False, True)]
    for mode in modes:  # bind buffers and open graphs before the clock runs
        serve(decoder, prompts[: mode.texts], replace(options, max_new_tokens=8), mode)
    alone = serve(decoder, prompts, options, Mode(1, drafts=False)).requests
    result = Throughput()
    for number in range(rounds):
        served = {mode: serve(decoder, prompts, options, mode) for mode in modes[:: 1 if number % 2 == 0 else -1]}
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
    def ratio(self) -> float:
        """The longest step while the prompt joins, over the usual step."""
        return max(self.joining, default=0.0) / self.usual


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
