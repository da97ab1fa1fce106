"""Several texts in one call, on a stand-in for the GPU: each gets what it gets alone, in a graph for one text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import DraftEngines, HeadLane, Lane, TargetEngine, TargetLane
from s2d_trt.bundle import Bundle
from s2d_trt.errors import S2DError
from s2d_trt.manifest import MANIFEST, SCRATCH_ROWS
from tests.runtime.backends.conftest import built

Bundles = dict[tuple[str, int], Bundle]


@pytest.fixture(scope="session")
def bundles(draft_checkpoint: Path, target_checkpoint: Path, engines: Path) -> Bundles:
    """Drafts and targets in layout BHSD and float32, for one, four and six texts."""
    form = ("--backend", "tensorrt", "--no-compile", "--precision", "fp32", "--lanes")
    kinds = (("draft", "build", draft_checkpoint), ("target", "target", target_checkpoint))
    return {
        (kind, lanes): Bundle.open(built(module, checkpoint, engines / f"{kind}-of-{lanes}.engine", *form, str(lanes)))
        for kind, module, checkpoint in kinds
        for lanes in (1, 4, 6)
    }


def tree(rng: np.random.Generator, count: int) -> np.ndarray:
    """Which of the new rows each may read: a chain with a branch here and there."""
    visible = np.eye(count, dtype=bool)
    for node in range(1, count):
        visible[node] |= visible[int(rng.integers(0, node)) if rng.random() < 0.3 else node - 1]
    return visible


def random_lane(rng: np.random.Generator, start: int, count: int | None = None) -> TargetLane:
    """Random rows behind ``start``; the logits of all of them, or of the last."""
    count = count or int(rng.integers(1, 12))
    visible, rows = tree(rng, count), np.arange(count)
    wanted = rows if rng.random() < 0.7 else rows[-1:]
    return TargetLane(None, rng.integers(0, 300, count), start + visible.sum(1) - 1, start, start, visible, wanted)


def logits(engine: TargetEngine, contexts: Sequence[Any], lanes: Sequence[TargetLane]) -> list[np.ndarray]:
    """The logits of each lane, of the text in ``contexts``; read after all calls were queued, the last lane first."""
    placed = [replace(lane, context=context) for context, lane in zip(contexts, lanes, strict=True)]
    found = list(zip(placed, engine.forward(placed), strict=True))
    return [np.array([rows[row].copy() for row in range(len(lane.logit_rows))]) for lane, rows in found[::-1]][::-1]


def alone(engine: TargetEngine, contexts: Sequence[Any], lanes: Sequence[TargetLane]) -> list[np.ndarray]:
    """The logits of each lane, in a call for each."""
    return [logits(engine, [context], [lane])[0] for context, lane in zip(contexts, lanes, strict=True)]


@pytest.mark.parametrize(("lanes", "texts"), [(1, 3), (4, 3), (4, 6), (6, 6)])
def test_texts_in_random_company_get_the_logits_that_they_get_alone(
    bundles: Bundles, backend: Any, lanes: int, texts: int
) -> None:
    rng = np.random.default_rng(texts)
    single, several = (backend.target(bundles["target", count]) for count in (1, lanes))
    assert several.lanes == {1: (1,), 4: (1, 2, 4), 6: (1, 2, 4, 6)}[lanes]
    # Texts come one by one, so that the pool grows while others are under way.
    ours: list[Any] = []
    theirs: list[Any] = []
    lengths: list[int] = []
    for step in range(24):
        if step % 3 == 0 and len(ours) < texts:
            ours.append(several.context())
            theirs.append(single.context())
            lengths.append(0)
        chosen = [text for text in rng.permutation(len(ours)).tolist() if rng.random() < 0.6] or [0]
        parts = [random_lane(rng, lengths[text]) for text in chosen]
        expected = alone(single, [theirs[text] for text in chosen], parts)
        for found, wanted in zip(logits(several, [ours[text] for text in chosen], parts), expected, strict=True):
            assert found == pytest.approx(wanted, abs=2e-4)
        for text, part in zip(chosen, parts, strict=True):
            # Keep a path of the tree, or drop the text for another.
            path = np.flatnonzero(part.visible[-1])
            for context in (ours[text], theirs[text]):
                context.move(lengths[text] + path, lengths[text])
            lengths[text] += len(path)
            if lengths[text] > 60 or rng.random() < 0.05:
                lengths[text] = 0
                for context in (ours[text], theirs[text]):
                    context.reset()


@pytest.mark.parametrize("lanes", [1, 4])
def test_texts_in_random_company_get_the_candidates_that_they_get_alone(
    bundles: Bundles, backend: Any, lanes: int
) -> None:
    rng = np.random.default_rng(lanes)
    single, several = (backend.draft(bundles["draft", count]) for count in (1, lanes))
    ours, theirs = ([engine.context() for _ in range(6)] for engine in (several, single))
    lengths = [0] * 6
    for step in range(8):
        chosen = [text for text in rng.permutation(6).tolist() if rng.random() < 0.6] or [0]
        noise = {text: rng.standard_normal(300).astype(np.float32) for text in chosen}
        parts = {text: random_lane(rng, lengths[text]) for text in chosen}
        results = []
        for engines, contexts in ((single, theirs), (several, ours)):
            segment = [
                Lane(contexts[text], part.tokens, part.positions, part.start, part.base, part.visible)
                for text, part in parts.items()
            ]
            head = [
                HeadLane(contexts[text], step % 3, part.start, part.start + len(part.tokens), noise[text])
                for text, part in parts.items()
            ]
            for group in [[lane] for lane in segment] if engines is single else [segment]:
                for index in range(step % 3 + 1):
                    engines.forward(index, group)
            results.append([pair for group in ([[lane] for lane in head] if engines is single else [head])
                            for pair in copies(engines, group)])  # fmt: skip
        for (tokens, logprobs), (found_tokens, found_logprobs) in zip(*results, strict=True):
            assert np.array_equal(found_tokens, tokens)
            assert found_logprobs == pytest.approx(logprobs, abs=2e-4)
        for text, part in parts.items():
            lengths[text] += len(part.tokens) if step % 3 == 2 else 0


def copies(engines: DraftEngines, lanes: Sequence[HeadLane]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(tokens.copy(), logprobs.copy()) for tokens, logprobs in engines.candidates(lanes)]


def test_what_another_text_holds_changes_no_bit(bundles: Bundles, backend: Any) -> None:
    """Not even numbers that overflowed, of a text in the call or beside it."""
    rng = np.random.default_rng(5)
    engine = backend.target(bundles["target", 4])
    contexts = [engine.context() for _ in range(4)]
    prompts = [random_lane(rng, 0, 9) for _ in contexts]
    after = [random_lane(rng, 9, 5) for _ in contexts]
    for members in ([0, 1, 2, 3], [0, 2, 3]):
        found = []
        for poisoned in (False, True):
            for context in contexts:
                context.reset()
            logits(engine, contexts, prompts)
            if poisoned:
                for block in contexts[1].pool.caches[0]._blocks:
                    block.array().view(np.float32).reshape(4, -1)[1] = np.nan
            found.append(logits(engine, [contexts[text] for text in members], [after[text] for text in members]))
            found[-1] += logits(engine, [contexts[0]], [replace(after[0], start=14, base=14)])
        for text, clean, dirty in zip([*members, 0], *found, strict=True):
            assert np.array_equal(clean, dirty) == (text != 1)


def test_exact_lanes_have_the_same_bits_alone_and_together(bundles: Bundles, backend: Any) -> None:
    rng = np.random.default_rng(6)
    engine = backend.target(bundles["target", 4])
    ours, theirs = ([engine.context() for _ in range(3)] for _ in range(2))
    parts = [replace(random_lane(rng, 0, count), exact_rows=16) for count in (1, 16, 7)]
    beside = random_lane(rng, 0, 3)
    together = logits(engine, [*ours, theirs[0]], [*parts, beside])[:3]
    theirs[0].reset()
    for found, expected in zip(together, alone(engine, theirs, parts), strict=True):
        assert np.array_equal(found, expected)


def test_more_rows_than_a_call_takes_are_cut_and_no_logits_are_lost(bundles: Bundles, backend: Any) -> None:
    rng = np.random.default_rng(7)
    single, several = (backend.target(bundles["target", count]) for count in (1, 4))
    parts = [random_lane(rng, 0, count) for count in (128, 100, 60, 90)]
    expected = alone(single, [single.context() for _ in parts], parts)
    for found, wanted in zip(logits(several, [several.context() for _ in parts], parts), expected, strict=True):
        assert found == pytest.approx(wanted, abs=2e-4)


def test_texts_beside_one_at_the_end_of_its_cache_do_not_touch_it(bundles: Bundles, backend: Any) -> None:
    rng = np.random.default_rng(8)
    single, several = (backend.target(bundles["target", count]) for count in (1, 4))
    ours, theirs = ([engine.context() for _ in range(3)] for engine in (several, single))
    manifest = bundles["target", 4].manifest
    end = manifest.cache.max_length + SCRATCH_ROWS
    assert end == manifest.cache.slots
    lengths = [0, 0, 0]
    counts = [[9, 100, 9], *([1, 100, 3] for _ in range(4)), [2, end - 500, 30], [4, 0, 3], [4, 4, 3]]
    for step in counts:
        if step == counts[-1]:
            lengths[1] = end - 4
        chosen = [text for text in range(3) if step[text]]
        parts = [random_lane(rng, lengths[text], step[text]) for text in chosen]
        # There are fewer positions than slots.
        parts = [replace(part, positions=part.positions % manifest.cache.max_length) for part in parts]
        expected = alone(single, [theirs[text] for text in chosen], parts)
        for found, wanted in zip(logits(several, [ours[text] for text in chosen], parts), expected, strict=True):
            assert found == pytest.approx(wanted, abs=2e-4)
        lengths = [length + count for length, count in zip(lengths, step, strict=True)]


def test_a_text_that_reaches_the_end_of_its_cache_in_one_call_is_spared_by_the_next(
    bundles: Bundles, backend: Any
) -> None:
    rng = np.random.default_rng(12)
    engine = backend.target(bundles["target", 4])
    ours, theirs = ([engine.context() for _ in range(3)] for _ in range(2))
    parts = [random_lane(rng, engine.form.slots - 4, 4), *(random_lane(rng, 0, 9) for _ in range(2))]
    # An exact text has a call of its own, before that of the others.
    parts[0] = replace(parts[0], positions=np.arange(4), exact_rows=4)
    together = logits(engine, ours, parts)
    for found, wanted in zip(together, alone(engine, theirs, parts), strict=True):
        assert found == pytest.approx(wanted, abs=2e-4)


def test_one_text_takes_the_memory_and_the_attention_of_one(bundles: Bundles, backend: Any, gpu: Any) -> None:
    engine, sizes = backend.target(bundles["target", 4]), []
    allocate = gpu.allocate
    gpu.allocate = lambda size: sizes.append(size) or allocate(size)
    contexts = [engine.context()]
    one = engine.form.text_bytes
    assert sizes.count(one) == 2 * 9
    contexts += [engine.context() for _ in range(2)]
    assert sizes.count(2 * one) == sizes.count(4 * one) == 2 * 9
    logits(engine, [contexts[2]], [random_lane(np.random.default_rng(0), 0, 5)])
    ((_, shape, _),) = contexts[2].pool.calls
    assert list(shape.window.texts) == [2]
    assert shape.rows == shape.lane_rows == 8


def test_calls_of_a_shape_are_recorded_once_whoever_is_in_them(bundles: Bundles, backend: Any, gpu: Any) -> None:
    rng = np.random.default_rng(9)
    engine = backend.target(bundles["target", 4])
    contexts = [engine.context() for _ in range(4)]
    logits(engine, contexts, [random_lane(rng, 0, 9) for _ in contexts])
    logits(engine, contexts, [random_lane(rng, 9, 2) for _ in contexts])
    recorded, allocated = gpu.recorded, gpu.allocated
    for members, count in (([3, 1, 0, 2], 2), ([0, 3, 2], 2), ([3, 0], 2)):
        chosen = [replace(random_lane(rng, 11, count), logit_rows=np.arange(count)) for _ in members]
        logits(engine, [contexts[text] for text in members], chosen)
    assert (gpu.recorded, gpu.allocated) == (recorded, allocated)


def test_where_memory_ends_a_text_is_refused_and_the_others_go_on(
    bundles: Bundles, backend: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(10)
    single, several = (backend.target(bundles["target", count]) for count in (1, 4))
    ours, theirs = ([engine.context() for _ in range(2)] for engine in (several, single))
    for start in (0, 4):
        parts = [random_lane(rng, start, 4) for _ in ours]
        expected = alone(single, theirs, parts)
        for found, wanted in zip(logits(several, ours, parts), expected, strict=True):
            assert found == pytest.approx(wanted, abs=2e-4)
        left, allocate = [5], gpu.allocate

        def refuse(size: int, left: list[int] = left, allocate: Any = allocate) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise S2DError("no memory")
            return allocate(size)

        with monkeypatch.context() as patch:
            patch.setattr(gpu, "allocate", refuse)
            with pytest.raises(S2DError, match="no memory"):
                several.context()


def test_a_bundle_of_before_lanes_runs_its_texts_one_after_another(
    bundles: Bundles, backend: Any, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(bundles["target", 1].directory, tmp_path / "older.engine"))
    manifest = json.loads((older / MANIFEST).read_text())
    del manifest["lanes"]
    (older / MANIFEST).write_text(json.dumps(manifest))
    rng = np.random.default_rng(11)
    engine, reference = (backend.target(each) for each in (Bundle.open(older), bundles["target", 1]))
    assert engine.lanes == (1,)
    parts = [random_lane(rng, 0, count) for count in (5, 2, 7)]
    expected = alone(reference, [reference.context() for _ in parts], parts)
    for found, wanted in zip(logits(engine, [engine.context() for _ in parts], parts), expected, strict=True):
        assert np.array_equal(found, wanted)
