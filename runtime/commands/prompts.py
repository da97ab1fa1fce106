"""`run --prompts`: many prompts, several at a time, results in their order."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from runtime.commands.report import logprobs_json
from runtime.decoding.leasing import bytes_of
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.evaluation.prompts import Prompt
from s2d_trt.cli import byte_size
from s2d_trt.errors import CapacityError, S2DError


def answer_prompts(
    prompts: Sequence[Prompt],
    make_request: Callable[[str], Request],
    arguments: argparse.Namespace,
) -> None:
    """Generate after the first turn of every prompt, and print each result as soon as all before it are printed."""
    answers = [_request_or_error(make_request, prompt) for prompt in prompts]
    requests = [answer for answer in answers if isinstance(answer, Request)]
    if not requests:
        raise next(answer for answer in answers if isinstance(answer, S2DError))
    scheduler = Scheduler(arguments.lanes, offline=True)
    together = sorted(map(bytes_of, requests))[-arguments.lanes :]
    print(f"prompts fill up to {byte_size(sum(together))} of caches at a time", file=sys.stderr)
    for each in requests:
        scheduler.add(each)
    began = time.perf_counter()
    finished = _in_order(scheduler, requests)
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        request = next(finished) if isinstance(answer, Request) else None
        error = answer if isinstance(answer, S2DError) else request.error if request else None
        if error is not None and not isinstance(error, S2DError):
            raise error  # a fault of the engine or of this program
        if arguments.json:
            result = _json(request) if request and error is None else {"error": str(error)}
            print(json.dumps({"prompt": prompt.turns[0], **result}), flush=True)
        else:
            print(f"== {number}/{len(prompts)}")
            print(request.text if request and error is None else f"error: {error}", flush=True)
    seconds, tokens = time.perf_counter() - began, sum(len(each.tokens) for each in requests)
    steps = [length for each in requests for length in each.stats.accept_lengths]
    summary = f"{len(requests)} texts, {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s"
    if steps:
        summary += f", {sum(steps) / len(steps):.2f} tokens a step of a text"
    print(summary, file=sys.stderr)


def _request_or_error(make_request: Callable[[str], Request], prompt: Prompt) -> Request | S2DError:
    """One prompt that does not fit must not cost the others their answers."""
    try:
        return make_request(prompt.turns[0])
    except CapacityError as error:
        return error


def _in_order(scheduler: Scheduler, requests: Sequence[Request]) -> Iterator[Request]:
    printed = 0
    while scheduler.busy:
        scheduler.step()
        _show_progress(requests)
        while printed < len(requests) and requests[printed].finished:
            yield requests[printed]
            printed += 1
    yield from requests[printed:]


def _show_progress(requests: Sequence[Request]) -> None:
    if sys.stderr.isatty():
        done = sum(request.finished for request in requests)
        tokens = sum(len(request.tokens) for request in requests)
        filled = "#" * (30 * done // len(requests))
        end = "\n" if done == len(requests) else ""
        print(f"\r[{filled:30}] {done}/{len(requests)} texts, {tokens} tokens", end=end, file=sys.stderr, flush=True)


def _json(request: Request) -> dict[str, object]:
    return {
        "text": request.text,
        "tokens": request.tokens,
        "finish_reason": request.finish_reason,
        "seed": request.seed,
        "exact": request.exact,
        **logprobs_json(request),
        "accept_lengths": request.stats.accept_lengths,
    }
