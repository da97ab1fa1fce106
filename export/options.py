"""Options that the commands share: which backend a bundle is for, and how its graphs are compiled."""

from __future__ import annotations

import argparse

from export.encoding import QUANTIZED_FORMATS, Encoding
from export.layout import BHSD, BSH
from export.precision import FP16, FP32, PRECISIONS
from export.tensorrt.bundle_plans import PlanOptions
from export.tensorrt.log import LEVELS
from export.tensorrt.plan import FLAVORS
from s2d_trt.cli import ArgumentParser, comma_ints, positive_int
from s2d_trt.errors import OptionError

BACKENDS = ("onnxruntime", "tensorrt")
LANES = (1, 2, 4, 8)
"""Texts in one call, by default: one graph for each."""
MOST_LANES = 64


def add_build_options(parser: ArgumentParser) -> None:
    """What a build of a draft and of a target have in common."""
    parser.add_argument(
        "--max-length", type=positive_int, metavar="N", help="cache positions (default: the model's own, up to 4096)"
    )
    parser.add_argument(
        "--parity",
        action=argparse.BooleanOptionalAction,
        help="compare with PyTorch before publishing (default: where the weights are below 2 GiB)",
    )
    _add_form_options(parser)
    add_plan_options(parser)


def _add_form_options(parser: ArgumentParser) -> None:
    """What the graphs are made for."""
    group = parser.add_argument_group("form")
    group.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="what runs the bundle (default: %(default)s)"
    )
    group.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        help="fp32 (default for onnxruntime), int8 rows and weights (onnxruntime on a CPU), fp16 (default for tensorrt)"
        " or bf16",
    )
    group.add_argument(
        "--weights", choices=QUANTIZED_FORMATS, help="quantise the linear layers (default: keep the precision)"
    )
    group.add_argument(
        "--lanes",
        type=comma_ints,
        metavar="N,N,...",
        help="graphs for so many texts in one call (onnxruntime; default: 1,2,4,8)",
    )
    group.add_argument("--no-compile", action="store_true", help="graphs alone, to compile later with export.compile")


def add_plan_options(parser: ArgumentParser) -> None:
    """How TensorRT compiles."""
    group = parser.add_argument_group("TensorRT")
    group.add_argument("--trt-flavor", choices=FLAVORS, help="builder (default: what is installed)")
    group.add_argument(
        "--compute-capability",
        type=_capabilities,
        metavar="X.Y,...",
        help="GPUs to compile for, like 8.6,8.9 (RTX; default: its own choice)",
    )
    group.add_argument("--tree-nodes", type=positive_int, metavar="N", help="rows of the largest tree (default: 64)")
    group.add_argument("--prefill-chunk", type=positive_int, metavar="N", help="prompt rows in one call (default: 128)")
    group.add_argument(
        "--row-profile", action="store_true", help="a profile for single rows alone; the plan keeps its weights twice"
    )
    group.add_argument("--weight-streaming", action="store_true", help="let weights stay in host memory")
    group.add_argument(
        "--builder-log", choices=LEVELS, metavar="LEVEL", help=f"{', '.join(LEVELS)} (default: {LEVELS[0]})"
    )


def read_form(options: argparse.Namespace) -> tuple[str, Encoding, PlanOptions | None]:
    """Cache layout, encoding of the weights, and how to compile (None: not at all).

    Raises:
        OptionError: options that do not fit together, or no TensorRT to compile with.
    """
    compiled = options.backend == "tensorrt"
    precision = PRECISIONS[options.precision] if options.precision else FP16 if compiled else FP32
    encoding = Encoding(precision, options.weights or precision.weight_format)
    if compiled:
        if precision.integer_rows:
            raise OptionError("--precision int8 is for the CPU; for --backend tensorrt take --weights int8")
        return BHSD.name, encoding, None if options.no_compile else read_plan_options(options)
    for name in ("weights", "no_compile", *_PLAN_OPTIONS):
        if getattr(options, name):
            raise OptionError(f"--{name.replace('_', '-')} is for --backend tensorrt; add that or leave it out")
    return BSH.name, encoding, None


def read_lanes(options: argparse.Namespace) -> tuple[int, ...]:
    """How many texts one call may take: one graph is built for each number.

    Raises:
        OptionError: a number is below 1 or above ``MOST_LANES``, or the backend takes one text a call.
    """
    if options.backend == "tensorrt":
        if options.lanes not in (None, (1,)):
            raise OptionError("--lanes is for --backend onnxruntime; leave it out")
        return (1,)
    lanes = options.lanes or LANES
    if min(lanes) < 1 or max(lanes) > MOST_LANES:
        raise OptionError(f"--lanes {','.join(map(str, lanes))}: each number must be between 1 and {MOST_LANES}")
    return tuple(sorted({1, *lanes}))


def read_plan_options(options: argparse.Namespace) -> PlanOptions:
    """How to compile.

    Raises:
        OptionError: no TensorRT is installed, or it cannot do this.
    """
    chosen = {field: getattr(options, name) for name, field in _PLAN_OPTIONS.items() if getattr(options, name)}
    return PlanOptions.choose(**chosen)


_PLAN_OPTIONS = {
    "trt_flavor": "flavor",
    "compute_capability": "compute_capabilities",
    "tree_nodes": "tree_nodes",
    "prefill_chunk": "prefill_chunk",
    "row_profile": "row_profile",
    "weight_streaming": "weight_streaming",
    "builder_log": "log_level",
}


def _capabilities(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not all(part.replace(".", "", 1).isdigit() and "." in part for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of compute capabilities like 8.6,8.9")
    return parts
