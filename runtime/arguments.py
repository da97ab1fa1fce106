"""Command-line options that `run` and `bench` share, and the objects they stand for."""

from __future__ import annotations

import argparse

from runtime.policy import FixedThresholds, Policy
from runtime.request import Options
from runtime.sampling import Sampling
from runtime.tree import PAPER_TREE, TreeShape
from s2d_trt.cli import comma_floats, positive_int
from s2d_trt.errors import OptionError


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundles to load, and how."""
    group = parser.add_argument_group("engines")
    group.add_argument("--draft", default="draft", help="draft bundle, a path or a name under engines/ (%(default)s)")
    group.add_argument("--threads", type=positive_int, help="CPU threads (default: the physical cores)")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the text."""
    group = parser.add_argument_group("text")
    group.add_argument("--max-new-tokens", type=positive_int, default=128, help="most tokens to add (%(default)s)")
    group.add_argument("--temperature", type=comma_floats, default=(0.0,), help="0 is greedy (the default)")
    group.add_argument("--top-k", type=int, default=0, help="sample among the k most probable tokens (0: off)")
    group.add_argument("--top-p", type=float, default=1.0, help="sample among the most probable mass p (1: off)")
    group.add_argument("--min-p", type=float, default=0.0, help="drop tokens below min-p x the best one's (0: off)")
    group.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1 discourages repeats (1: off)")
    group.add_argument("--seed", type=int, help="same seed, same text (default: drawn and reported)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")


def add_drafting_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the speed, never the text."""
    group = parser.add_argument_group("drafting (decides the speed, never the text)")
    group.add_argument("--thresholds", type=comma_floats, help="confidence to exit, per exit (0.5,0.5,0)")
    group.add_argument("--confidence", choices=("mean", "max"), default="mean", help="of a tree level (%(default)s)")
    group.add_argument("--tree", choices=("chain", "paper"), default="chain", help="paper: depth 4, top-k 10, 60 nodes")
    group.add_argument("--tree-depth", type=int, help="d means d + 1 draft passes a step")
    group.add_argument("--tree-top-k", type=int, help="nodes expanded at each level; 1 is a chain")
    group.add_argument("--tree-nodes", type=int, help="most nodes verified in a step, the root included")
    group.add_argument("--exact", action="store_true", help="bit-identical to the target alone (chains only)")


def tree_shape(arguments: argparse.Namespace) -> TreeShape:
    """The tree that the options ask for."""
    preset = PAPER_TREE if arguments.tree == "paper" else TreeShape()
    chosen = (arguments.tree_depth, arguments.tree_top_k, arguments.tree_nodes)
    defaults = (preset.depth, preset.top_k, preset.nodes)
    return TreeShape(*(b if a is None else a for a, b in zip(chosen, defaults, strict=True)))


def decoding_options(arguments: argparse.Namespace, temperature: float) -> Options:
    """Everything the options say of a request."""
    return Options(
        max_new_tokens=arguments.max_new_tokens,
        sampling=Sampling(
            temperature=temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            seed=arguments.seed,
        ),
        stop=tuple(arguments.stop),
        policy=Policy(FixedThresholds(arguments.thresholds, arguments.confidence), tree_shape(arguments)),
        exact=arguments.exact,
    )


def single_temperature(arguments: argparse.Namespace) -> float:
    """The one temperature of a command that takes no list."""
    if len(arguments.temperature) != 1:
        raise OptionError("give one temperature; only the bench takes a list")
    return float(arguments.temperature[0])
