"""Graphs in layout BHSD for several texts: each text gets the rows that the graph for one text computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import build, target
from export.session import GraphRun
from s2d_trt import names
from s2d_trt.bundle import Bundle

Array = np.ndarray[Any, Any]
LANES = 4


@pytest.fixture(scope="module")
def bundles(draft_checkpoint, target_checkpoint, tmp_path_factory):
    """Draft and target in float32, for one text and for several."""
    root, found = tmp_path_factory.mktemp("packed"), {}
    for name, module, checkpoint in (("draft", build, draft_checkpoint), ("target", target, target_checkpoint)):
        for lanes in (1, LANES):
            out = root / f"{name}-{lanes}.engine"
            form = ["--backend", "tensorrt", "--precision", "fp32", "--no-compile", "--lanes", str(lanes)]
            module.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity", *form])
            found[name, lanes] = out
    return found


@dataclass(frozen=True)
class Rows:
    """A text's rows in a call: tokens or hidden states, positions, and which of the new rows each reads."""

    source: Array
    positions: Array
    visible: Array
    start: int


class Packed:
    """A graph for several lanes in ONNX Runtime. ``used`` are the rows that each text has in its caches."""

    def __init__(self, bundle: Path, name: str) -> None:
        self.run = GraphRun(Bundle.open(bundle).manifest, bundle, name)
        self.run.caches = {name: cache.repeat(LANES, axis=0) for name, cache in self.run.caches.items()}
        self.used = [0] * LANES

    def call(self, lanes: Sequence[Rows | None]) -> list[Array]:
        """The rows of each lane. A text without rows gets a dummy row, written behind its own."""
        run, longest = self.run, max(len(lane.source) for lane in lanes if lane)
        attention_rows, positions = np.zeros((2, LANES, longest), np.int64)
        mask = np.zeros((LANES, 1, longest, run.slots), bool)
        mask[..., 0] = True
        packed_rows, sources, parts = [], [], []
        for index, lane in enumerate(lanes):
            count, first = (len(lane.source) if lane else 1), sum(map(len, sources))
            attention_rows[index] = first + np.minimum(np.arange(longest), count - 1)
            packed_rows.append(index * longest + np.arange(count))
            parts.append(slice(first, first + count))
            if lane is None:
                sources.append(np.zeros_like(next(lane for lane in lanes if lane).source[:1]))
                continue
            sources.append(lane.source)
            positions[index, :count] = lane.positions
            mask[index, 0, :count, 0] = False
            mask[index, 0, :count, : lane.start] = True
            mask[index, 0, :count, lane.start : lane.start + count] = lane.visible
            self.used[index] = lane.start + count
        source = np.concatenate(sources)
        floating = np.issubdtype(source.dtype, np.floating)
        feeds = {
            names.HIDDEN_STATES if floating else names.INPUT_IDS: source[None],
            names.POSITION_IDS: positions,
            names.ATTENTION_MASK: mask,
            names.WRITE_INDEX: np.array(
                [lane.start if lane else used for lane, used in zip(lanes, self.used, strict=True)]
            ),
            names.ATTENTION_ROWS: attention_rows,
            names.PACKED_ROWS: np.concatenate(packed_rows),
            **run.caches,
        }
        if not any(entry.name == names.OUTPUT_HIDDEN_STATES for entry in run.session.get_outputs()):
            feeds[names.LOGIT_ROWS] = np.arange(len(source))
        outputs = [entry.name for entry in run.session.get_outputs()]
        found = dict(zip(outputs, run.session.run(outputs, feeds), strict=True))
        for cache in run.caches:
            run.caches[cache] = found[names.present_of(cache)]
        result = found[names.LOGITS] if names.LOGITS in found else found[names.OUTPUT_HIDDEN_STATES][0]
        return [result[part] if lane else None for lane, part in zip(lanes, parts, strict=True)]


def alone(run: GraphRun, rows: Rows) -> Array:
    """The same rows in the graph for one text."""
    count = len(rows.source)
    mask = np.zeros((count, run.slots), bool)
    mask[:, : rows.start] = True
    mask[:, rows.start : rows.start + count] = rows.visible
    others = {names.LOGIT_ROWS: np.arange(count)} if run.name == names.TARGET else {}
    found = run.rows(rows.source[None], rows.start, mask, rows.positions, **others)
    return found if run.name == names.TARGET else found[0]


def random_rows(rng: np.random.Generator, start: int, hidden: int, least: int) -> Rows:
    """A chain, or a tree whose nodes each read their ancestors."""
    count = int(rng.integers(least, 9))
    visible = np.eye(count, dtype=bool)
    for node in range(1, count):
        visible[node] |= visible[int(rng.integers(0, node)) if rng.random() < 0.5 else node - 1]
    source = rng.standard_normal((count, hidden)).astype(np.float32) if hidden else rng.integers(0, 300, count)
    return Rows(source, start + visible.sum(1) - 1, visible, start)


def random_calls(rng: np.random.Generator, packed: Packed, hidden: int, least: int) -> Iterator[list[Rows | None]]:
    """Calls with ragged lanes, some of them empty, that go on, or begin again a little before, where each text is."""
    for _ in range(20):
        lanes = [
            random_rows(rng, int(rng.integers(max(used - 3, 0), used + 1)), hidden, least)
            if rng.random() < 0.7
            else None
            for used in packed.used
        ]
        if any(lanes):
            yield lanes


@pytest.mark.parametrize("least", [1, 2], ids=["lone rows too", "two rows or more"])
@pytest.mark.parametrize(("kind", "graph", "hidden"), [("target", "target", 0), ("draft", "segment_1", 64)])
def test_each_text_gets_the_rows_that_it_gets_alone(bundles, kind, graph, hidden, least):
    rng = np.random.default_rng(least)
    packed = Packed(bundles[kind, LANES], graph)
    singles = [GraphRun(Bundle.open(bundles[kind, 1]).manifest, bundles[kind, 1], graph) for _ in range(LANES)]
    for lanes in random_calls(rng, packed, hidden, least):
        for found, lane, single in zip(packed.call(lanes), lanes, singles, strict=True):
            if lane is not None and least > 1:
                np.testing.assert_array_equal(found, alone(single, lane))
            elif lane is not None:
                np.testing.assert_allclose(found, alone(single, lane), rtol=1e-4, atol=2e-5)


def test_a_text_that_overflowed_changes_no_bit_of_the_others(bundles):
    rng = np.random.default_rng(3)
    clean, poisoned = (Packed(bundles["target", LANES], "target") for _ in range(2))
    first = [random_rows(rng, 0, 0, 3) for _ in range(LANES)]
    for packed in (clean, poisoned):
        packed.call(first)
    for cache in poisoned.run.caches.values():
        cache[1] = np.nan
    for without in (1, 2, None):
        starts = [None if index == without else used for index, used in enumerate(clean.used)]
        lanes = [None if start is None else random_rows(rng, start, 0, 1) for start in starts]
        expected, found = clean.call(lanes), poisoned.call(lanes)
        for index in {0, 2, 3} - {without}:
            np.testing.assert_array_equal(found[index], expected[index])
    for name, cache in poisoned.run.caches.items():
        np.testing.assert_array_equal(cache[[0, 2, 3]], clean.run.caches[name][[0, 2, 3]])


def test_each_row_of_the_head_gets_the_noise_of_its_text(bundles):
    rng = np.random.default_rng(4)
    one, several = (
        GraphRun(Bundle.open(bundles["draft", lanes]).manifest, bundles["draft", lanes], names.HEAD)
        for lanes in (1, LANES)
    )
    hidden = rng.standard_normal((1, 6, 64)).astype(np.float32)
    noise = rng.standard_normal((LANES, 300)).astype(np.float32)
    texts = np.array([0, 0, 2, 3, 3, 1])
    feeds = {names.HIDDEN_STATES: hidden, names.NOISE: noise, names.NOISE_ROWS: texts}
    tokens, logprobs = several.session.run([names.TOP_TOKENS, names.TOP_LOGPROBS], feeds)
    for row, text in enumerate(texts):
        expected = one.candidates(hidden, noise[text : text + 1])
        np.testing.assert_array_equal(tokens[row], expected[0][row])
        np.testing.assert_allclose(logprobs[row], expected[1][row], rtol=1e-5, atol=1e-5)
