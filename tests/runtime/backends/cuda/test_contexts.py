"""Contexts of the GPU backends, on a stand-in for the GPU: they give the tokens of the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.calls import run_together
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate, target_alone
from runtime.sampling.noise import Noise
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import PAPER_TREE, TreeShape
from runtime.tree.tree import Tree
from s2d_trt.bundle import Bundle

PROMPT = [0, *range(40, 60)]


@dataclasses.dataclass(frozen=True)
class HostPlacement(Placement):
    """Runs every bundle on the stand-in."""

    host: Any = None

    def open_backend(self, bundle: Bundle) -> Any:
        return self.host


@pytest.fixture
def place(backend: Any) -> HostPlacement:
    return HostPlacement(host=backend)


def options(tree: TreeShape, temperature: float = 0.0, **changes: Any) -> Options:
    policy = Policy(FixedThresholds((0.6, 0.6, 0.0)), tree)
    return Options(24, Sampling(temperature, seed=3), policy=policy, **changes)


CHAIN = TreeShape(depth=3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tree", [CHAIN, PAPER_TREE])
def test_prefix_caches_give_the_tokens_of_the_cpu(
    draft_bundle: Path, target_bundle: Path, decoder: Decoder, place: Placement, tree: TreeShape, temperature: float
) -> None:
    there = Decoder(Target.open(target_bundle, place), SortedDraft.open(draft_bundle, place))
    ours, theirs = (generate(each, PROMPT, options(tree, temperature)) for each in (there, decoder))
    assert ours.tokens == theirs.tokens
    assert ours.stats.accept_lengths == theirs.stats.accept_lengths
    assert ours.stats.exit_counts == theirs.stats.exit_counts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tree", [CHAIN, PAPER_TREE])
def test_drafting_does_not_change_the_text_of_a_static_target(
    static_bundles: tuple[Path, Path], place: Placement, tree: TreeShape, temperature: float
) -> None:
    draft, target = static_bundles
    decoder = Decoder(Target.open(target, place), SortedDraft.open(draft, place))
    request = generate(decoder, PROMPT, options(tree, temperature))
    assert request.tokens == target_alone(decoder, PROMPT, options(tree, temperature)).tokens
    assert request.stats.mean_accepted_tokens > 1.2
    assert len(request.stats.exit_counts) > 1


def test_one_number_of_rows_makes_a_row_bit_identical_alone_and_together(
    static_bundles: tuple[Path, Path], place: Placement
) -> None:
    draft, target = static_bundles
    decoder = Decoder(Target.open(target, place), SortedDraft.open(draft, place))
    chosen = options(CHAIN, exact=True)
    assert generate(decoder, PROMPT, chosen).tokens == target_alone(decoder, PROMPT, chosen, exact=True).tokens


def test_a_static_cache_gives_the_logits_of_the_cpu(
    static_bundles: tuple[Path, Path], target: Target, place: Placement
) -> None:
    there = Target.open(static_bundles[1], place)
    tree = Tree(np.array([7, 8, 9, 10]), np.array([-1, 0, 0, 2]), np.array([0, 1, 1, 2]))
    sequences = [each.lease() for each in (target, there)]
    bound = 1e-4 if there.bundle.manifest.precision == "fp32" else 0.05
    for path in ([0, 2, 3], [0, 1]):
        if path == [0, 2, 3]:
            first, second = (np.array(sequence.prefill(PROMPT)) for sequence in sequences)
            assert second == pytest.approx(first, abs=bound)
        ours, theirs = (sequence.verify(tree) for sequence in sequences)
        for node in range(len(tree)):
            assert theirs[node] == pytest.approx(ours[node], abs=bound)
        for sequence in sequences:
            sequence.commit(path)


def test_a_text_up_to_the_last_slot_pads_no_call_beyond_the_cache(
    static_bundles: tuple[Path, Path], place: Placement
) -> None:
    draft, target = static_bundles
    decoder = Decoder(Target.open(target, place), SortedDraft.open(draft, place))
    room = decoder.target.max_length
    prompt = np.random.default_rng(0).integers(1, 300, room - 6).tolist()
    chosen = options(PAPER_TREE)
    request = generate(decoder, prompt, chosen)
    assert request.tokens == target_alone(decoder, prompt, chosen).tokens
    assert request.finish_reason in ("capacity", "stop")


def test_a_step_allocates_nothing_once_its_shapes_are_known(
    static_bundles: tuple[Path, Path], place: Placement, gpu: Any
) -> None:
    draft, target = static_bundles
    decoder = Decoder(Target.open(target, place), SortedDraft.open(draft, place))
    generate(decoder, PROMPT, options(CHAIN))
    allocated, recorded, replayed = gpu.allocated, gpu.recorded, gpu.replayed
    generate(decoder, PROMPT, options(CHAIN))
    assert gpu.allocated == allocated
    assert gpu.recorded == recorded
    assert gpu.replayed > replayed


@pytest.mark.parametrize("tree", [CHAIN, PAPER_TREE])
@pytest.mark.parametrize("rule", ["mean", "max"])
@pytest.mark.parametrize("thresholds", [(0.6, 0.6, 0.0), (0.0, 0.0, 0.0), (2.0, 2.0, 0.0), (0.3, 2.0, 0.0)])
def test_the_device_takes_the_exits_that_the_host_takes(
    static_bundles: tuple[Path, Path],
    backend: Any,
    deciding_backend: Any,
    tree: TreeShape,
    rule: Any,
    thresholds: tuple[float, ...],
) -> None:
    draft, target = static_bundles
    requests = []
    for each in (backend, deciding_backend):
        there = HostPlacement(host=each)
        decoder = Decoder(Target.open(target, there), SortedDraft.open(draft, there))
        chosen = Options(24, policy=Policy(FixedThresholds(thresholds, rule), tree))
        requests.append(generate(decoder, PROMPT, chosen))
    host, device = requests
    assert device.tokens == host.tokens
    assert device.stats.accept_lengths == host.stats.accept_lengths
    assert device.stats.exit_counts == host.stats.exit_counts


def test_where_the_device_decides_the_host_waits_once_a_depth(
    static_bundles: tuple[Path, Path], gpu: Any, deciding_backend: Any
) -> None:
    draft = SortedDraft.open(static_bundles[0], HostPlacement(host=deciding_backend))
    sequence, budget = draft.empty_sequence(), FixedThresholds((2.0, 2.0, 0.0)).budget(draft.exits)
    sequence.shape = CHAIN
    noise = Noise(0, 0.0, draft.vocab_size)
    for length in (10, 12):
        sequence.truncate(0)
        sequence.prefill(PROMPT[:length])
        sequence.enqueue([7])
        before = gpu.replayed
        run_together([sequence.propose(TreeBuilder(7, CHAIN), budget, noise, 100)])
    assert gpu.replayed - before == CHAIN.depth + 1
