"""Export a large checkpoint and print its time and peak memory; the default shape is Llama-2-7B's, 13 GiB.

The checkpoint is a set of sparse files, which take no disk space. The bundle is really written, twice as large as the
bfloat16 checkpoint, and removed at the end. Peak memory is RssAnon, which leaves out pages of files: the system can
drop those at any time.

examples:
  python -m tests.benchmarks.memory --scratch /tmp
  python -m tests.benchmarks.memory --scratch /tmp --hidden 8192 --layers 80 --heads 64 --kv-heads 8 --ffn 28672
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from export.bundle import check_space
from export.weight_spec import WeightSpec
from s2d_trt.cli import ArgumentParser, byte_size, run_command
from s2d_trt.errors import OptionError
from tests.benchmarks.checkpoint import add_shape_options, read_shape, write_sparse_checkpoint

PROG = "python -m tests.benchmarks.memory"
INTERVAL = 0.05
"""Seconds between two readings of the exporter's memory."""


def main(argv: Sequence[str]) -> None:
    """Parse ``argv``, write a checkpoint, export it in another process and measure that."""
    parser = ArgumentParser(__doc__ or "", PROG)
    add_shape_options(parser, layers=32)
    options = parser.parse_args(argv)
    spec = read_shape(options)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "target.engine"
        check_space(bundle, WeightSpec(spec, 4096).bytes)
        checkpoint.mkdir()
        source = write_sparse_checkpoint(checkpoint, spec, 4096)
        print(f"checkpoint        {byte_size(source)} in bfloat16", flush=True)
        command = [sys.executable, "-m", "export.target", "--checkpoint", str(checkpoint), "--out", str(bundle)]
        began = time.perf_counter()
        peak = _watched([*command, "--no-parity"])
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in bundle.iterdir())
    print(f"bundle            {byte_size(size)} in {seconds:.0f} s, {size / seconds / 1e6:.0f} MB/s")
    print(f"peak RssAnon      {byte_size(peak)}")


def _watched(command: Sequence[str]) -> int:
    """Run a command to its end; returns its peak RssAnon in bytes. Raises OptionError if it fails."""
    peak = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(INTERVAL)
    if process.returncode:
        raise OptionError("the export failed; its own message says why")
    return peak


if __name__ == "__main__":
    run_command(PROG, main)
