"""`bench --lanes`: the table of several texts at a time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.evaluation.prompts import Prompt
from runtime.evaluation.throughput import Delay, Mode, Served, Throughput, joining_delay, measure
from s2d_trt.errors import OptionError

JOINING, CONTINUED = 400, 64
"""Tokens of the prompt that joins a running text, and of the running text's own."""


def throughputs(
    decoder: Decoder, prompts: Sequence[Prompt], runs: Sequence[tuple[float, Options]], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Measure and print each temperature's table; every figure of it, for a file."""
    texts = sorted({1, *arguments.lanes})
    ids = _fitting(decoder, prompts, runs[0][1], arguments.prompt_tokens)
    for temperature, options in runs:
        for throughput in measure(decoder, ids, options, texts, arguments.rounds):
            _show_progress(decoder, len(throughput.rounds), arguments.rounds)
        delay = joining_delay(decoder, ids[0][-CONTINUED:], _long_prompt(decoder, ids), options)
        print("\n".join(_lines(decoder, temperature, throughput, texts, delay)), flush=True)
        yield _figures(decoder, temperature, throughput, texts, delay)


def _fitting(decoder: Decoder, prompts: Sequence[Prompt], options: Options, longest: int | None) -> list[list[int]]:
    """The first turns as token ids, cut to their last ``longest``, where they and the new tokens fit the target."""
    most = decoder.target.max_length - options.max_new_tokens
    ids = [list(decoder.tokenizer.encode(prompt.turns[0]).ids)[-(longest or most) :] for prompt in prompts]
    fitting = [prompt for prompt in ids if 0 < len(prompt) <= most]
    if not fitting:
        raise OptionError(
            f"target {decoder.target.name} has no room for {options.max_new_tokens} new tokens; ask for less"
        )
    return fitting


def _long_prompt(decoder: Decoder, ids: Sequence[list[int]]) -> list[int]:
    """``JOINING`` tokens of the prompts, one behind the other, or as many as the target holds."""
    joined = [token for prompt in ids for token in prompt]
    while len(joined) < JOINING:
        joined += joined
    return joined[: min(JOINING, decoder.target.max_length - 2)]


def _lines(
    decoder: Decoder, temperature: float, throughput: Throughput, texts: Sequence[int], delay: Delay
) -> Iterator[str]:
    total = len(throughput.rounds[0][Mode(1, False)].requests)
    yield f"{decoder.target.name}, temperature {temperature:g}, {total} texts, {len(throughput.rounds)} rounds"
    yield "  texts  plain tokens/s  over turns  decoding  S2D tokens/s  over turns  over plain  decoding  identical"
    for count in texts:
        plain, drafted = Mode(count, False), Mode(count, True)
        decoding = _decoding
        yield (
            f"  {count:5}  {throughput.speed(plain):14.1f}  {throughput.ratio(plain, Mode(1, False)):10.2f}"
            f"  {throughput.ratio(plain, Mode(1, False), decoding):8.2f}"
            f"  {throughput.speed(drafted):12.1f}  {throughput.ratio(drafted, Mode(1, True)):10.2f}"
            f"  {throughput.ratio(drafted, plain):10.2f}  {throughput.ratio(drafted, plain, decoding):8.2f}"
            f"  {throughput.identical[plain]}+{throughput.identical[drafted]}/{2 * total}"
        )
    yield (
        f"  a text's step while {delay.prompt_tokens} tokens of prompt join: at most {delay.ratio:.2f} times its usual"
        f" {delay.usual * 1e3:.1f} ms"
    )


def _decoding(served: Served) -> float:
    return served.decoding_speed


def _figures(
    decoder: Decoder, temperature: float, throughput: Throughput, texts: Sequence[int], delay: Delay
) -> dict[str, Any]:
    modes = [Mode(count, drafts) for count in texts for drafts in (False, True)]
    return {
        "target": decoder.target.name,
        "temperature": temperature,
        "texts": len(throughput.rounds[0][modes[0]].requests),
        "modes": [
            {
                "at_a_time": mode.texts,
                "drafts": mode.drafts,
                "tokens_per_second": [each[mode].speed for each in throughput.rounds],
                "decoding_tokens_per_second": [each[mode].decoding_speed for each in throughput.rounds],
                "identical": throughput.identical[mode],
            }
            for mode in modes
        ],
        "joining": {"prompt_tokens": delay.prompt_tokens, "usual_seconds": delay.usual, "steps": delay.joining},
    }


def _show_progress(decoder: Decoder, done: int, rounds: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{decoder.target.name}: {done}/{rounds} rounds", end="\n" if done == rounds else "", file=sys.stderr)
