"""Generate text with a target and a sorted draft.

Text is printed as it is accepted, then a short table of what it cost. The output is what the target
alone would generate with the same seed, bit for bit on a CPU: the draft, the thresholds and the tree
decide only the speed.

  python -m runtime.run --target target-17m --prompt "def read(self, size=-1):"
  python -m runtime.run --target target-17m --prompt "import os" --temperature 1 --seed 7 --baseline
  python -m runtime.run --target target-17m --prompt-file code.py --tree paper --color
  python -m runtime.run --target my-chat-model --chat --system "Be brief." --prompt "What is a draft model?"
  cat code.py | python -m runtime.run --target target-17m --json
  python -m runtime.run --target target-17m --prompts prompts.jsonl --lanes 8 --json > answers.jsonl

Targets and drafts are bundles: directories NAME.engine made by export.build and export.target, named
by path or by NAME under engines/.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.commands.arguments import (
    NO_DRAFT,
    add_constraint_arguments,
    add_drafting_arguments,
    add_engine_arguments,
    add_sampling_arguments,
    decoding_options,
    placement,
    prepare,
    read_text,
    single_temperature,
)
from runtime.commands.prompts import answer_prompts
from runtime.commands.report import baseline_lines, logprobs_json, request_lines
from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Request, Step
from runtime.evaluation.comparison import Comparison, compare_with_target, target_alone, warm_up, with_seed
from runtime.evaluation.prompts import load_prompts
from runtime.text.chat import Message
from s2d_trt.cli import ArgumentParser, positive_int, run_command
from s2d_trt.errors import OptionError

PROG = "python -m runtime.run"
LANES = 8
"""Texts of ``--prompts`` at a time."""
_DRAFTED, _RESET = "\033[32m", "\033[0m"


def main(argv: Sequence[str]) -> None:
    """Load, generate, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundle, a path or a name under engines/")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="text to continue")
    prompt.add_argument(
        "--prompts", metavar="FILE", help="a file of JSON lines, or demo: generate after each (the first turn)"
    )
    prompt.add_argument("--prompt-file", type=Path, help="UTF-8 file to continue (default: standard input)")
    chat = parser.add_argument_group("chat")
    chat.add_argument("--chat", action="store_true", help="the prompt is the user's turn, in the model's chat template")
    chat.add_argument("--system", metavar="TEXT", help="what the system says before it (with --chat)")
    add_engine_arguments(parser)
    add_sampling_arguments(parser)
    add_constraint_arguments(parser)
    add_drafting_arguments(parser)
    parser.add_argument("--lanes", type=positive_int, help=f"with --prompts: texts at a time ({LANES})")
    output = parser.add_argument_group("output")
    output.add_argument("--baseline", action="store_true", help="also run the target alone and compare")
    output.add_argument("--color", action="store_true", help="drafted-and-accepted text in green")
    output.add_argument("--json", action="store_true", help="print one JSON object instead of text and table")
    output.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities of each new token and of the N best"
    )
    output.add_argument("--prompt-logprobs", type=int, metavar="N", help="with --json: the same of the prompt's tokens")
    output.add_argument(
        "--logprobs-mode",
        choices=("raw", "processed"),
        default="raw",
        help="before penalties, bias, bans, temperature and filters, or after them (%(default)s)",
    )
    arguments = parser.parse_args(argv)

    options = replace(
        decoding_options(arguments, single_temperature(arguments)),
        logprobs=arguments.logprobs,
        prompt_logprobs=arguments.prompt_logprobs,
        logprobs_mode=arguments.logprobs_mode,
    )
    if (options.logprobs, options.prompt_logprobs) != (None, None) and not arguments.json:
        raise OptionError("log-probabilities are part of the JSON output; add --json")
    if arguments.system is not None and not arguments.chat:
        raise OptionError("--system is part of a conversation; add --chat")
    prompts = load_prompts(arguments.prompts) if arguments.prompts else []
    if prompts and (arguments.baseline or arguments.color):
        raise OptionError("--baseline and --color show one text; leave them out, or compare with runtime.bench")
    if arguments.lanes is not None and not prompts:
        raise OptionError("--lanes is the number of texts of --prompts at a time; leave it out")
    arguments.lanes = arguments.lanes or LANES
    text = "" if prompts else _prompt(arguments)
    draft = None if arguments.draft == NO_DRAFT else arguments.draft
    decoder = Decoder.open(arguments.target, draft, placement(arguments), arguments.verify)

    def make_request(text: str) -> Request:
        if arguments.chat:
            return decoder.chat_request(_conversation(arguments, text), options)
        return decoder.request(text, options)

    if prompts:
        prepare(decoder, arguments, options, arguments.lanes)
        answer_prompts(prompts, make_request, arguments)
        return
    request = make_request(text)
    prepare(decoder, arguments, options)
    if arguments.baseline:
        warm_up(decoder, request.prompt, options)
    for step in decoder.run(request):
        if not arguments.json:
            sys.stdout.write(_painted(step) if arguments.color else step.text)
            sys.stdout.flush()

    alone, comparison = None, None
    if arguments.baseline:
        seeded = with_seed(options, request.seed)
        alone = target_alone(decoder, request.prompt, seeded)
        comparison = compare_with_target(decoder, request, alone)
    if arguments.json:
        print(json.dumps(_json(request, alone, comparison)))
        return
    print("\n")
    print("\n".join(request_lines(decoder, request)))
    if alone is not None and comparison is not None:
        print("\n".join(baseline_lines(request, alone, comparison)))


def _prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None:
        return str(arguments.prompt)
    if arguments.prompt_file is None and sys.stdin.isatty():
        raise OptionError("no prompt; give --prompt TEXT, --prompt-file FILE, or text on standard input")
    return read_text(arguments.prompt_file)


def _conversation(arguments: argparse.Namespace, text: str) -> list[Message]:
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    return [*system, {"role": "user", "content": text}]


def _painted(step: Step) -> str:
    drafted = "".join(step.pieces[: step.drafted])
    return (f"{_DRAFTED}{drafted}{_RESET}" if drafted else "") + "".join(step.pieces[step.drafted :])


def _json(request: Request, alone: Request | None, comparison: Comparison | None) -> dict[str, Any]:
    stats = request.stats
    result: dict[str, Any] = {
        "text": request.text,
        "tokens": request.tokens,
        "prompt_tokens": len(request.prompt),
        "new_tokens": len(request.tokens),
        "finish_reason": request.finish_reason,
        "seed": request.seed,
        "exact": request.exact,
        **logprobs_json(request),
        "steps": stats.steps,
        "mean_accepted_tokens": stats.mean_accepted_tokens,
        "accept_lengths": stats.accept_lengths,
        "exit_counts": {str(exit_): count for exit_, count in sorted(stats.exit_counts.items())},
        "tokens_per_second": request.tokens_per_second,
        "seconds": {
            "prefill": stats.prefill,
            "draft": stats.draft,
            "verify": stats.verify,
            "other": stats.other,
        },
    }
    if alone is not None and comparison is not None:
        result["baseline"] = {"tokens": alone.tokens, "tokens_per_second": alone.tokens_per_second}
        result["speedup"] = request.tokens_per_second / alone.tokens_per_second
        result["identical"] = comparison.identical
        result["bit_identical"] = comparison.bits
    return result


if __name__ == "__main__":
    run_command(PROG, main)
