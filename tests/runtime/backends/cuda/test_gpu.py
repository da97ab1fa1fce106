"""On a GPU: plans and sessions give what the CPU gives, recorded calls what queued ones give, and no step allocates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends.cuda.device import CudaGpu
from runtime.backends.placement import CUDA, Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import compare, generate, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.interface import Chunk
from runtime.targets.target import Target
from runtime.tree.shape import PAPER_TREE, TreeShape
from tests.benchmarks import gpu as benchmark
from tests.runtime.backends.conftest import built

pytestmark = pytest.mark.gpu
PROMPT = [0, *range(40, 60)]
CHAIN = TreeShape(depth=3)
BOUNDS = {"TensorRT": 0.05, "ONNX Runtime": 1e-3}
"""Largest difference of logits in fp16 and in fp32; scores closer than this may change places."""


@pytest.fixture(scope="session")
def plan_bundles(cuda: CudaGpu, draft_checkpoint: Path, target_checkpoint: Path, engines: Path) -> tuple[Path, Path]:
    """Draft and target compiled in fp16, with what is installed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)
    options = ("--backend", "tensorrt", "--precision", "fp16")
    return (
        built("build", draft_checkpoint, engines / "draft-plans.engine", *options),
        built("target", target_checkpoint, engines / "target-plans.engine", *options),
    )


@pytest.fixture(params=["TensorRT", "ONNX Runtime"])
def bundles(request: pytest.FixtureRequest, cuda: CudaGpu) -> tuple[str, Path, Path]:
    """The backend and its bundles."""
    if request.param == "TensorRT":
        draft, target = request.getfixturevalue("plan_bundles")
        return request.param, draft, target
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    return request.param, request.getfixturevalue("draft_bundle"), request.getfixturevalue("target_bundle")


def opened(bundles: tuple[str, Path, Path], cuda_graphs: bool = True) -> Decoder:
    _, draft, target = bundles
    place = Placement(device=CUDA, cuda_graphs=cuda_graphs)
    return Decoder(Target.open(target, place), SortedDraft.open(draft, place))


def options(tree: TreeShape, temperature: float = 0.0, **changes: Any) -> Options:
    policy = Policy(FixedThresholds((0.6, 0.6, 0.0)), tree)
    return Options(24, Sampling(temperature, seed=3), policy=policy, **changes)


def test_logits_are_those_of_the_cpu(bundles: tuple[str, Path, Path], target: Target) -> None:
    numbers = benchmark.numbers(opened(bundles).target, target)  # type: ignore[arg-type]
    assert numbers["largest difference"] < BOUNDS[bundles[0]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tree", [CHAIN, PAPER_TREE])
def test_drafting_changes_only_tokens_whose_scores_differ_by_rounding(
    bundles: tuple[str, Path, Path], tree: TreeShape, temperature: float
) -> None:
    decoder = opened(bundles)
    chosen = options(tree, temperature)
    request = generate(decoder, PROMPT, chosen)
    found = compare(decoder, request, target_alone(decoder, PROMPT, chosen))
    assert found.identical or (found.margin is not None and found.margin < BOUNDS[bundles[0]])
    assert request.stats.mean_accepted_tokens > 1.2


def test_recorded_calls_give_the_bits_of_queued_ones(bundles: tuple[str, Path, Path]) -> None:
    logits = []
    for cuda_graphs in (True, False):
        target = opened(bundles, cuda_graphs).target
        for _ in range(3):
            sequence = target.lease()
            row = np.array(sequence.prefill(PROMPT))
            target.release(sequence)
        logits.append(row)
    assert np.array_equal(*logits)


def test_texts_in_one_call_get_the_logits_that_each_gets_alone(bundles: tuple[str, Path, Path]) -> None:
    target = opened(bundles).target
    texts = [PROMPT[:length] for length in (3, 20, 7, 12, 1)]
    together, alone = ([target.lease() for _ in texts] for _ in range(2))
    for _ in range(3):  # the pool grows, shapes are recorded, then replayed
        for sequence in (*together, *alone):
            sequence.reset(0)
        parts = [(sequence, Chunk(text)) for sequence, text in zip(together, texts, strict=True)]
        found = [np.array(rows[0]) for rows in target.run(parts)]
        expected = [np.array(sequence.prefill(text)) for sequence, text in zip(alone, texts, strict=True)]
        assert np.abs(np.subtract(found, expected)).max() < BOUNDS[bundles[0]]


def test_the_device_takes_the_exits_that_the_host_takes(plan_bundles: tuple[Path, Path]) -> None:
    draft, target = plan_bundles
    found = []
    for device_cascade in (False, True):
        place = Placement(device=CUDA, device_cascade=device_cascade)
        decoder = Decoder(Target.open(target, place), SortedDraft.open(draft, place))
        request = generate(decoder, PROMPT, options(CHAIN))
        found.append((request.tokens, request.stats.exit_counts))
    assert found[0] == found[1]


def test_a_step_takes_no_memory_once_its_shapes_are_known(
    bundles: tuple[str, Path, Path], cuda: CudaGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = opened(bundles)
    chosen = options(CHAIN)
    generate(decoder, PROMPT, chosen)

    def refuse(*_: object) -> None:
        raise AssertionError("a known shape was prepared again")

    for name in ("allocate", "pinned", "record"):
        monkeypatch.setattr(cuda, name, refuse)
    generate(decoder, PROMPT, chosen)
