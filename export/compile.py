"""Compile the graphs of a bundle to TensorRT plans, or compile them again with another builder.

The bundle must have been built with --backend tensorrt. Plans are added to it and its manifest is replaced last; its
weights are not copied, though each plan holds its own. A compilation that fails leaves the bundle as it was.

examples:
  python -m export.build --exits 6,9,12 --backend tensorrt --no-compile
  python -m export.compile draft.trt
  python -m export.compile engines/draft.trt.engine --compute-capability 8.6,8.9
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from export.bundle import write_bundle
from export.options import add_plan_options, read_plan_options
from export.tensorrt.bundle_plans import compile_graphs
from s2d_trt.bundle import Bundle, find_bundle
from s2d_trt.cli import ArgumentParser, run_command

PROG = "python -m export.compile"


def main(argv: Sequence[str]) -> None:
    """Parse ``argv`` and compile."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("bundle", metavar="BUNDLE", help="a directory, or a name under engines/")
    add_plan_options(parser)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    directory = find_bundle(options.bundle)
    Bundle.open(directory)
    plan_options = read_plan_options(options)
    with write_bundle(directory) as writer:
        manifest = Bundle.open(directory).manifest
        writer.commit(compile_graphs(manifest, directory, writer, plan_options, print))
    print(f"wrote    {directory} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    run_command(PROG, main)
