"""Command-line options that `run` and `bench` share, and the objects they stand for."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from runtime.backends.placement import BACKENDS, Device, Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.options import Policy, choose_policy
from runtime.drafting.profile import Profile
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from s2d_trt import reading
from s2d_trt.cli import add_verify_option, comma_floats, positive_int
from s2d_trt.errors import OptionError

NO_DRAFT = "none"
"""What ``--draft`` says for n-gram lookup alone."""


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundles to load, and how."""
    group = parser.add_argument_group("engines")
    group.add_argument(
        "--draft",
        default="draft",
        help="draft bundle, a path or a name under engines/, or none: n-gram lookup alone (%(default)s)",
    )
    group.add_argument("--backend", choices=BACKENDS, default="auto", help="auto: what the bundle was built for")
    group.add_argument("--device", type=Device.parse, help="cpu, cuda or cuda:N (default: what the bundle is for)")
    group.add_argument("--no-cuda-graphs", action="store_true", help="TensorRT: queue every kernel again at each call")
    group.add_argument(
        "--device-cascade", action="store_true", help="TensorRT, fixed policy: the GPU decides which exit answers"
    )
    group.add_argument("--threads", type=positive_int, help="CPU threads (default: the physical cores)")
    add_verify_option(group)
    group.add_argument("--measure", action="store_true", help="measure again what calls cost on this machine")


def add_constraint_arguments(parser: argparse.ArgumentParser) -> None:
    """What the new text must be."""
    group = parser.add_argument_group("constraint (one of these)").add_mutually_exclusive_group()
    group.add_argument("--json-schema", type=Path, metavar="FILE", help="the new text is JSON that this schema allows")
    group.add_argument("--regex", metavar="PATTERN", help="the new text matches a regular expression")
    group.add_argument("--grammar", type=Path, metavar="FILE", help="the new text matches a grammar (Lark)")
    group.add_argument(
        "--choice", action="append", metavar="TEXT", help="the new text is TEXT, or another choice; may be repeated"
    )


def _constraint(arguments: argparse.Namespace) -> Constraint | None:
    """The one that was asked for."""
    if arguments.regex is not None:
        return Constraint("regex", arguments.regex)
    if arguments.choice is not None:
        return Constraint.choice(arguments.choice)
    if arguments.json_schema is not None:
        return Constraint("json_schema", read_text(arguments.json_schema))
    return None if arguments.grammar is None else Constraint("lark", read_text(arguments.grammar))


def read_text(path: Path | None) -> str:
    """The text of a UTF-8 file, or of standard input. Raises OptionError."""
    source = path or "standard input"
    try:
        if path is None:
            return reading.decoded(reading.read_stream(sys.stdin.buffer))
        return reading.read_text(path, pipes=True)
    except OSError as cause:
        raise OptionError(f"{source} cannot be read ({cause.strerror}); name a readable file") from cause
    except ValueError as cause:
        raise OptionError(f"{source}: {cause}; convert it to UTF-8") from cause


def placement(arguments: argparse.Namespace) -> Placement:
    """Where the engines run."""
    return Placement(
        arguments.backend,
        arguments.device,
        arguments.threads,
        cuda_graphs=not arguments.no_cuda_graphs,
        device_cascade=arguments.device_cascade,
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the text."""
    group = parser.add_argument_group("text")
    group.add_argument("--max-new-tokens", type=positive_int, default=128, help="most tokens to add (%(default)s)")
    group.add_argument("--temperature", type=comma_floats, default=(0.0,), help="0 is greedy (the default)")
    group.add_argument("--top-k", type=int, default=0, help="sample among the k most probable tokens (0: off)")
    group.add_argument("--top-p", type=float, default=1.0, help="sample among the most probable mass p (1: off)")
    group.add_argument("--min-p", type=float, default=0.0, help="drop tokens below min-p x the best one's (0: off)")
    group.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1 discourages repeats (1: off)")
    group.add_argument("--frequency-penalty", type=float, default=0.0, help="per use of a token, -2 to 2 (0: off)")
    group.add_argument("--presence-penalty", type=float, default=0.0, help="for a token used before, -2 to 2 (0: off)")
    group.add_argument(
        "--logit-bias",
        type=_token_bias,
        action="append",
        default=[],
        metavar="ID=BIAS",
        help="added to the token's logit, -100 to 100; may be repeated",
    )
    group.add_argument(
        "--bad-word", action="append", default=[], metavar="TEXT", help="never write it; may be repeated"
    )
    group.add_argument("--seed", type=int, help="same seed, same text (default: drawn and reported)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")
    group.add_argument(
        "--stop-token-id", type=int, action="append", default=[], metavar="ID", help="end with it; may be repeated"
    )
    group.add_argument("--min-tokens", type=int, default=0, help="do not end before so many new tokens (%(default)s)")
    group.add_argument("--ignore-eos", action="store_true", help="go on behind the end-of-text token")


def _token_bias(text: str) -> tuple[int, float]:
    """``"42=-1.5"`` -> ``(42, -1.5)``."""
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a token id and a number like 42=-1.5") from None


def add_drafting_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the speed, never the text."""
    group = parser.add_argument_group("drafting (decides the speed, never the text)")
    group.add_argument(
        "--profile", type=Path, metavar="FILE", help="the policy that runtime.tune found for this target and draft"
    )
    group.add_argument(
        "--policy",
        choices=("adaptive", "fixed"),
        help="adaptive: exit and tree by measured cost and learned acceptance, no drafting where that pays best;"
        " fixed: the published thresholds (default: adaptive, or fixed where an option below is given)",
    )
    group.add_argument(
        "--lookup",
        action=argparse.BooleanOptionalAction,
        help="also draft what followed the text's last tokens earlier in it (default: where the policy is adaptive)",
    )
    group.add_argument("--thresholds", type=comma_floats, help="confidence to exit, per exit (0.5,0.5,0)")
    group.add_argument("--confidence", choices=("mean", "max"), help="of a tree level (mean)")
    group.add_argument("--tree", choices=("chain", "paper"), help="paper: depth 4, top-k 10, 60 nodes (chain)")
    group.add_argument("--tree-depth", type=int, help="d means at most d + 1 draft passes a step")
    group.add_argument("--tree-top-k", type=int, help="most nodes expanded at each level; 1 is a chain")
    group.add_argument("--tree-nodes", type=int, help="most nodes verified in a step, the root included")
    group.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        help="draft chains, so that text and scores are bit-identical to the target alone; --no-exact drafts trees,"
        " under which ties of rounding size may differ (default: exact on a CPU, unless a tree is asked for)",
    )


def drafting_policy(arguments: argparse.Namespace) -> Policy:
    """Who decides, and within which tree."""
    sizes = {"depth": arguments.tree_depth, "top_k": arguments.tree_top_k, "nodes": arguments.tree_nodes}
    if arguments.profile is not None:
        chosen = (arguments.policy, arguments.thresholds, arguments.confidence, arguments.tree, arguments.lookup)
        if any(option is not None for option in (*chosen, *sizes.values())):
            raise OptionError("--profile holds the policy, tree and lookup; leave their options out, or the profile")
        return Profile.read(arguments.profile).policy
    return choose_policy(
        arguments.policy,
        arguments.thresholds,
        arguments.confidence,
        arguments.tree,
        sizes,
        arguments.lookup,
        chain=arguments.exact is not False,
    )


def decoding_options(arguments: argparse.Namespace, temperature: float) -> Options:
    """Everything the options say of a request."""
    policy, exact = drafting_policy(arguments), arguments.exact
    if arguments.profile is not None and exact is None and not Profile.read(arguments.profile).exact:
        exact = False
    return Options(
        max_new_tokens=arguments.max_new_tokens,
        sampling=Sampling(
            temperature=temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            seed=arguments.seed,
            frequency_penalty=arguments.frequency_penalty,
            presence_penalty=arguments.presence_penalty,
            logit_bias=dict(arguments.logit_bias),
            bad_words=tuple(arguments.bad_word),
        ),
        stop=tuple(arguments.stop),
        stop_token_ids=tuple(arguments.stop_token_id),
        min_tokens=arguments.min_tokens,
        ignore_eos=arguments.ignore_eos,
        constraint=_constraint(arguments),
        policy=policy,
        exact=exact,
    )


def prepare(decoder: Decoder, arguments: argparse.Namespace, options: Options, sequences: int = 1) -> None:
    """Check and measure what ``options`` need with so many texts at a time, with progress on stderr."""

    def progress(work: str) -> None:
        print(f"{work} ...", file=sys.stderr, flush=True)

    check_profile(decoder, arguments)
    decoder.prepare(options, progress, arguments.measure, sequences)
    # What is loaded by now stays; to look through it again and again would delay single steps.
    gc.collect()
    gc.freeze()


def check_profile(decoder: Decoder, arguments: argparse.Namespace) -> None:
    """Raise OptionError where the profile is not for this pair."""
    if arguments.profile is not None:
        draft = decoder.draft.identity if decoder.draft else None
        Profile.read(arguments.profile).check(decoder.target.identity, draft, str(arguments.profile))


def single_temperature(arguments: argparse.Namespace) -> float:
    """The one temperature of a command that takes no list."""
    if len(arguments.temperature) != 1:
        raise OptionError("give one temperature; only the bench takes a list")
    return float(arguments.temperature[0])
