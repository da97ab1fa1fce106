"""Comparing graphs of a narrow precision with their float32 form, both in ONNX Runtime, over the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.parity import ROWS, ParityError
from export.session import Array, GraphRun
from s2d_trt import names
from s2d_trt.manifest import Manifest

BOUNDS = {"fp16": 5e-3, "int8": 0.1}
"""Largest difference of a graph's results that counts as rounding, as a share of the largest result."""
REMEDIES = {
    "fp16": "use --precision bf16, whose range is wider",
    "int8": "use --precision fp32: 8 bits are too few for this model",
}


def check_rounding(manifest: Manifest, wide: Manifest, directory: Path) -> str:
    """Run every graph of ``manifest`` and its float32 form in ``wide``; one line with their differences.

    Raises:
        ParityError: a difference above the precision's bound, or a number overflowed.
    """
    if manifest.precision == "bf16":
        return "rounding in bf16 not measured: ONNX Runtime's CPU provider cannot run it"
    errors, bound = dict(measure_rounding(manifest, wide, directory)), BOUNDS[manifest.precision]
    listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    if not all(error <= bound for error in errors.values()):
        raise ParityError(
            f"{manifest.precision} moves results by more than {bound:g} of the largest one ({listed}); nothing was"
            f" published: {REMEDIES[manifest.precision]}"
        )
    return f"{manifest.precision} within {max(errors.values()):.1e} of fp32 ({listed}; bound {bound:g})"


def measure_rounding(manifest: Manifest, wide: Manifest, directory: Path) -> Iterator[tuple[str, float]]:
    """Each graph's largest difference, over the largest absolute value of its float32 form, on the same inputs."""
    rng = np.random.default_rng(0)
    inputs: Array = rng.integers(0, manifest.model.vocab_size, (1, ROWS))
    noise = rng.standard_normal((1, manifest.model.vocab_size)).astype(np.float32)
    for name in manifest.graphs:
        graph, reference = (GraphRun(form, directory, name) for form in (manifest, wide))
        if name == names.HEAD:
            found, expected = (run.candidates(inputs, noise)[1] for run in (graph, reference))
        elif name == names.TARGET:
            rows = np.arange(ROWS)
            found, expected = (run.causal(inputs, 0, logit_rows=rows) for run in (graph, reference))
        else:
            found, expected = (run.causal(inputs, 0) for run in (graph, reference))
            inputs = expected
        difference = np.abs(found.astype(np.float64) - expected).max()
        yield name, float(difference / np.abs(expected).max())
