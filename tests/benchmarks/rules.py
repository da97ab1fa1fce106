"""Text under rules: is it the target's own, what do the rules cost, and does drafting pay?

For each rule and temperature every shipped prompt is answered with the draft and by the target alone. Tokens, scores
and log-probabilities must agree in every bit. Reported are tokens/s of both, tokens a step, and the share of the
drafted time that the rules took: their work on scores and on the draft's noise.

  python -m tests.benchmarks.rules --target target-17m --draft draft
  python -m tests.benchmarks.rules --target target-17m --draft draft --rules plain,json_schema,compact --new 64
  python -m tests.benchmarks.rules --masks tokenizer.json

With --masks, what a mask costs with the vocabulary of a tokenizer: microseconds for each token of an example.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from runtime import Constraint, Decoder, Options, Policy, Sampling
from s2d_trt.cli import ArgumentParser, comma_floats, positive_int, run_command
from s2d_trt.errors import OptionError
from tests.benchmarks.internals import (
    Chooser,
    GrammarRule,
    Grammars,
    Noise,
    RuledNoise,
    choose_policy,
    chooser,
    generate,
    load_prompts,
    load_tokenizer,
    same_bits,
    warm_up,
)
from tests.benchmarks.tables import Row, table_lines, write_report

PROG = "python -m tests.benchmarks.rules"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["function", "class", "module"]},
        "arguments": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        "lines": {"type": "integer", "minimum": 1, "maximum": 999},
        "documented": {"type": "boolean"},
    },
    "required": ["name", "kind", "arguments", "lines", "documented"],
    "additionalProperties": False,
}
COMPACT = SCHEMA | {"x-guidance": {"whitespace_flexible": False}}
EXAMPLE = (
    json.dumps({"name": "read a line", "kind": "function", "arguments": ["self", "size"], "lines": 42})[:-1] + ", "
)


def not_the_last(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """A processor that forbids to repeat the latest token."""
    scores[tokens[-1]] = -np.inf
    return scores


RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "logit_bias": {"sampling": {"logit_bias": {**dict.fromkeys(range(300, 340), 1.0), 11: -100.0}}},
    "penalties": {"sampling": {"frequency_penalty": 0.4, "presence_penalty": 0.2, "repetition_penalty": 1.05}},
    "bad_words": {"sampling": {"bad_words": ("self", "return", "    ")}},
    "min_tokens": {"min_tokens": 20, "stop_token_ids": tuple(range(200, 232))},
    "ignore_eos": {"ignore_eos": True, "sampling": {"logit_bias": {0: 3.0}}},
    "processors": {"processors": (not_the_last,)},
    "logprobs": {"logprobs": 5, "prompt_logprobs": 1},
    "processed logprobs": {"logprobs": 5, "logprobs_mode": "processed", "sampling": {"top_p": 0.9}},
    "json_schema": {"constraint": Constraint.json_schema(SCHEMA)},
    "compact": {"constraint": Constraint.json_schema(COMPACT)},
    "regex": {"constraint": Constraint("regex", r"(def [a-z_]+\([a-z_, ]*\):\n    return [a-z_.]+\n\n)+")},
    "lark": {
        "constraint": Constraint("lark", 'start: ("call " NAME "(" NAME ("," NAME)* ")\\n")+\nNAME: /[a-z_]{1,12}/')
    },
    "choice": {"constraint": Constraint.choice(["the draft proposes", "the target disposes", "neither of them"])},
}


def options_of(rule: str, temperature: float, new: int, policy: Policy) -> Options:
    """The options of a rule."""
    asked = dict(RULES[rule])
    sampling = Sampling(temperature, seed=1, **asked.pop("sampling", {}))
    return Options(new, sampling, policy=policy, **asked)


class Spent:
    """Time that rules took."""

    seconds = 0.0


@contextmanager
def counted() -> Iterator[Spent]:
    """Count the time that rules take, on scores and on the draft's noise; the noise itself is not counted."""
    spent, depth = Spent(), 0
    originals: list[tuple[Any, str]] = [(chooser, "_under"), (Chooser, "_allows"), (Chooser, "_few")]
    originals += [(Chooser, "follow")]
    originals += [(RuledNoise, "row"), (RuledNoise, "forced"), (RuledNoise, "restrict"), (RuledNoise, "admitted")]
    originals += [(GrammarRule, "forced"), (Noise, "row")]
    functions = [getattr(owner, name) for owner, name in originals]

    def timed(function: Any, sign: int) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal depth
            outermost, began = depth == 0, time.perf_counter()
            depth += 1
            try:
                return function(*arguments)
            finally:
                depth -= 1
                if outermost == (sign > 0):
                    spent.seconds += sign * (time.perf_counter() - began)

        return call

    for (owner, name), function in zip(originals, functions, strict=True):
        setattr(owner, name, timed(function, -1 if owner is Noise else 1))
    try:
        yield spent
    finally:
        for (owner, name), function in zip(originals, functions, strict=True):
            setattr(owner, name, function)


def measure(decoder: Decoder, rule: str, options: Options, prompts: Sequence[list[int]]) -> Row:
    """Answer the prompts under one rule, which ``options`` ask for."""
    pairs, seconds, temperature = [], 0.0, options.sampling.temperature
    warm_up(decoder, prompts[0], options)
    for number, prompt in enumerate(prompts):
        alone = generate(decoder, prompt, replace(options, draft=False)) if number % 2 else None
        with counted() as spent:
            drafted = generate(decoder, prompt, options)
        alone = alone or generate(decoder, prompt, replace(options, draft=False))
        seconds += spent.seconds
        pairs.append((drafted, alone))
        if sys.stderr.isatty():
            print(f"\r{rule}, temperature {temperature:g}: {number + 1}/{len(prompts)}", end="", file=sys.stderr)
    identical = [
        same_bits(ours, theirs)
        and ours.text == theirs.text
        and ours.prompt_logprobs == theirs.prompt_logprobs
        and ours.chooser.logprobs[: len(ours.tokens)] == theirs.chooser.logprobs[: len(theirs.tokens)]
        for ours, theirs in pairs
    ]
    steps = [length for ours, _ in pairs for length in ours.stats.accept_lengths]
    speeds = [fmean(request.tokens_per_second for request in side) for side in zip(*pairs, strict=True)]
    return {
        "rule": rule,
        "temperature": temperature,
        "identical": f"{sum(identical)}/{len(pairs)}",
        "tokens": sum(len(ours.tokens) for ours, _ in pairs),
        "tokens/step": fmean(steps) if steps else 0.0,
        "alone tokens/s": speeds[1],
        "S2D tokens/s": speeds[0],
        "speed-up": speeds[0] / speeds[1],
        "rules %": 100 * seconds / sum(ours.stats.total for ours, _ in pairs),
        "us/token": 1e6 * seconds / sum(len(ours.tokens) for ours, _ in pairs),
    }


def masks(path: Path) -> Iterator[Row]:
    """What a mask costs with the vocabulary of a tokenizer, for each constraint that has an example."""
    tokenizer = load_tokenizer(path, OptionError)
    size, began = tokenizer.get_vocab_size(), time.perf_counter()
    grammars = Grammars(path, size, [])
    loading = time.perf_counter() - began
    examples = {
        "json_schema": EXAMPLE,
        "compact": EXAMPLE.replace(": ", ":").replace(", ", ","),
        "regex": "def read_line(self, size):\n    return self.line\n\n",
        "lark": "call read(self,size)\ncall write(line)\n",
    }
    for name, text in examples.items():
        began = time.perf_counter()
        grammars.rule(RULES[name]["constraint"])
        compiling = time.perf_counter() - began
        times = [
            times
            for _ in range(5)
            for times in _walked(grammars, name, tokenizer.encode(text, add_special_tokens=False).ids, size)
        ]
        columns = list(zip(*times, strict=True))
        yield {
            "constraint": name,
            "vocabulary": size,
            "tokenizer ms": loading * 1e3,
            "compile ms": compiling * 1e3,
            "mask us (median)": median(columns[0]) * 1e6,
            "mask us (mean)": fmean(columns[0]) * 1e6,
            "follow us": median(columns[1]) * 1e6,
        }


def _walked(grammars: Grammars, name: str, tokens: Sequence[int], size: int) -> Iterator[tuple[float, float]]:
    """Seconds of the mask before each token, and of following it."""
    rule, scores = grammars.rule(RULES[name]["constraint"]), np.zeros(size, np.float32)
    for token in tokens:
        began = time.perf_counter()
        rule.apply(scores)
        masked = time.perf_counter()
        rule.follow(token)
        yield masked - began, time.perf_counter() - masked


def main(argv: Sequence[str]) -> None:
    """Measure, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", help="target bundle")
    parser.add_argument("--draft", default="draft", help="draft bundle (%(default)s)")
    parser.add_argument("--rules", default=",".join(RULES), help="which of them (all)")
    parser.add_argument("--temperature", type=comma_floats, default=(0.0, 1.0), help="like 0,1 (the default)")
    parser.add_argument("--limit", type=positive_int, default=48, help="prompts (%(default)s)")
    parser.add_argument("--new", type=positive_int, default=48, help="most new tokens of a text (%(default)s)")
    parser.add_argument("--prompt-tokens", type=positive_int, default=512, help="the last of a prompt (%(default)s)")
    parser.add_argument(
        "--policy", choices=("adaptive", "fixed"), default="adaptive", help="fixed drafts in every step (%(default)s)"
    )
    parser.add_argument("--masks", type=Path, metavar="FILE", help="only measure masks, with this tokenizer.json")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report there")
    arguments = parser.parse_args(argv)
    rules = arguments.rules.split(",")
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise OptionError(f"unknown rules {', '.join(unknown)}; there are {', '.join(RULES)}")
    if arguments.masks is not None:
        title, rows = "What a mask costs", list(masks(arguments.masks))
    elif arguments.target is None:
        raise OptionError("name a --target, or a tokenizer with --masks")
    else:
        decoder = Decoder.open(arguments.target, arguments.draft)
        most = min(arguments.prompt_tokens, decoder.target.max_length - arguments.new)
        prompts = [
            list(decoder.tokenizer.encode(prompt.turns[0]).ids)[-most:]
            for prompt in load_prompts("demo", arguments.limit)
        ]
        title, rows = f"Text under rules, {decoder.target.name}", []
        for rule in rules:
            for temperature in arguments.temperature:
                options = options_of(rule, temperature, arguments.new, choose_policy(arguments.policy, lookup=True))
                rows.append(measure(decoder, rule, options, prompts))
                print("\n".join(table_lines(title, rows)[-1:]), flush=True)
    lines = table_lines(title, rows)
    print("\n".join(lines))
    if arguments.out is not None:
        write_report(arguments.out, lines, rows)


if __name__ == "__main__":
    run_command(PROG, main)
