"""Several texts in one call: each gets what it gets alone, exact lanes to the bit; graphs open when needed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends import HeadLane, Lane, TargetLane
from runtime.backends.cpu.backend import OnnxDraft, OnnxTarget
from runtime.backends.cpu.kv import BUCKET
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.manifest import MANIFEST

LANES = (1, 2, 4, 8)
TEXTS = 11
"""More than the largest graph takes."""
LONGEST, MOST_ROWS = 3 * BUCKET, 40
CLOSE = 1e-4


@dataclass(frozen=True)
class Part:
    """Rows of a chain or a tree behind ``start`` committed ones of a text; a ``chunk`` wants only its last logits."""

    text: int
    start: int
    parents: tuple[int, ...]
    seed: int
    exact: bool
    chunk: bool

    @property
    def rows(self) -> int:
        return len(self.parents)

    @property
    def visible(self) -> np.ndarray:
        seen = np.eye(self.rows, dtype=bool)
        for row, parent in enumerate(self.parents[1:], 1):
            seen[row] |= seen[parent]
        return seen

    def lane(self, context: Any) -> TargetLane:
        tokens, seen = np.random.default_rng(self.seed).integers(0, 300, self.rows), self.visible
        positions, rows = self.start + seen.sum(axis=1) - 1, np.arange(self.rows)
        wanted, exact_rows = rows[-1:] if self.chunk else rows, MOST_ROWS if self.exact else 0
        return TargetLane(context, tokens, positions, self.start, self.start, seen, wanted, exact_rows)


def chain(rows: int) -> tuple[int, ...]:
    return tuple(range(-1, rows - 1))


CHAINS = st.one_of(st.just(1), st.integers(1, 8), st.integers(20, MOST_ROWS)).map(chain)
TREES = st.integers(1, 9).flatmap(lambda rows: st.tuples(st.just(-1), *[st.integers(0, row) for row in range(rows)]))
PARTS = st.builds(
    Part,
    text=st.integers(0, TEXTS - 1),
    start=st.one_of(st.integers(0, LONGEST), st.sampled_from([BUCKET - 2, BUCKET - 1, BUCKET, 2 * BUCKET - 1])),
    parents=st.one_of(CHAINS, TREES),
    seed=st.integers(0, 99),
    exact=st.sampled_from([True, True, True, False]),
    chunk=st.booleans(),
)
CALLS = st.lists(PARTS, min_size=2, max_size=TEXTS, unique_by=lambda part: part.text)


@dataclass
class Texts:
    """A target and texts whose caches are full of random rows."""

    engine: OnnxTarget

    def __post_init__(self) -> None:
        self.contexts = [self.engine.context() for _ in range(TEXTS)]
        rng = np.random.default_rng(7)
        for context in self.contexts:
            context.cache.fill(rng, LONGEST + MOST_ROWS)

    def run(self, parts: Sequence[Part]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each part its logits, and the rows that its text holds afterwards."""
        found = self.engine.forward([part.lane(self.contexts[part.text]) for part in parts])
        logits = [each.copy() for each in found]
        return [
            (rows, self.contexts[part.text].cache.rows(0, part.start + part.rows))
            for rows, part in zip(logits, parts, strict=True)
        ]


@pytest.fixture(scope="module", params=["target_bundle", "unshared_target_bundle", "int8_target_bundle"])
def texts(request: pytest.FixtureRequest) -> Texts:
    return Texts(OnnxTarget(Bundle.open(request.getfixturevalue(request.param)), 1))


@settings(max_examples=30)
@given(parts=CALLS)
def test_exact_lanes_have_the_bits_that_they_have_alone_and_the_others_the_values(
    texts: Texts, parts: list[Part]
) -> None:
    alone = [texts.run([part])[0] for part in parts]
    for part, expected, found in zip(parts, alone, texts.run(parts), strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            if part.exact:
                assert np.array_equal(ours, theirs)
            elif texts.engine.manifest.precision == "fp32":
                assert np.allclose(ours, theirs, atol=CLOSE)


@pytest.mark.parametrize("needs_company", [True, False])
def test_a_lone_row_among_other_texts_has_company_in_its_own_lane(
    texts: Texts, needs_company: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts.engine, "needs_company", needs_company)
    parts = [Part(text, 30 * text, chain(1), text, exact=True, chunk=False) for text in range(3)]
    texts.run(parts)
    lane_rows = texts.engine._layers.form(4).buffer(names.LANE_ROWS, 4)
    assert sorted(lane_rows.tolist()) == [1] + [2 if needs_company else 1] * 3


@pytest.mark.parametrize("count", range(1, TEXTS + 1))
def test_texts_are_cut_into_as_few_calls_as_the_graphs_allow(texts: Texts, count: int) -> None:
    lanes = [Part(text, 9, chain(2), text, exact=True, chunk=False).lane(None) for text in range(count)]
    calls = texts.engine._layers.cuts(lanes)
    assert [lane for call in calls for lane in call] == lanes
    assert len(calls) == -(-count // LANES[-1])
    assert max(map(len, calls)) - min(map(len, calls)) <= 1


def test_texts_with_more_rows_than_the_rotary_table_has_take_several_calls(texts: Texts) -> None:
    longest = texts.engine.manifest.cache.max_length
    parts = [Part(text, 9, chain(longest // 3), text, exact=True, chunk=True) for text in range(4)]
    alone = [texts.run([part])[0] for part in parts]
    for expected, found in zip(alone, texts.run(parts), strict=True):
        assert all(map(np.array_equal, expected, found))
    lanes = [part.lane(None) for part in parts]
    assert [len(call) for call in texts.engine._layers.cuts(lanes)] == [2, 2]


def test_a_graph_for_several_texts_opens_when_first_needed(target_bundle: Path) -> None:
    texts = Texts(OnnxTarget(Bundle.open(target_bundle), 1))
    assert texts.engine.lanes == LANES
    opened = []
    for count in (1, 2, 1, 3, 8, TEXTS):
        texts.run([Part(text, 9, chain(2), text, exact=True, chunk=False) for text in range(count)])
        opened.append(sorted(texts.engine._layers._forms))
    assert opened == [[1], [1, 2], [1, 2], [1, 2, 4], [1, 2, 4, 8], [1, 2, 4, 8]]


def test_a_text_keeps_its_lane_while_others_leave_and_join(texts: Texts) -> None:
    def order(*numbers: int) -> list[int]:
        """The text in each lane; -1 for none."""
        lanes = [
            Part(number, 9, chain(2), 0, exact=True, chunk=False).lane(texts.contexts[number]) for number in numbers
        ]
        return [numbers[index] if index >= 0 else -1 for index in texts.engine._layers._arranged(4, lanes)]

    assert order(5, 6, 7) == [5, 6, 7, -1]
    assert order(7, 5) == [5, -1, 7, -1]
    assert order(8, 5, 7, 9) == [5, 8, 7, 9]


def without_lanes(bundle: Path, out: Path) -> Bundle:
    """A copy whose manifest says nothing of lanes, as those of earlier versions."""
    shutil.copytree(bundle, out)
    content = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    del content["lanes"]
    (out / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return Bundle.open(out)


def test_bundles_of_earlier_versions_run_texts_one_after_another(
    target_bundle: Path, draft_bundle: Path, tmp_path: Path
) -> None:
    assert OnnxDraft(without_lanes(draft_bundle, tmp_path / "draft.engine"), 1).lanes == (1,)
    texts = Texts(OnnxTarget(without_lanes(target_bundle, tmp_path / "target.engine"), 1))
    assert texts.engine.lanes == (1,)
    parts = [Part(text, 9 * text, chain(3), text, exact=True, chunk=False) for text in range(3)]
    alone = [texts.run([part])[0][0] for part in parts]
    assert np.array_equal([logits for logits, _ in texts.run(parts)], alone)


# The draft


@dataclass(frozen=True)
class Drafted:
    """Rows of one text in each segment, and the rows of the last of them that meet the head."""

    text: int
    start: int
    rows: int
    wanted: int
    noise: int
    known: int


DRAFTED = st.builds(
    Drafted,
    text=st.integers(0, TEXTS - 1),
    start=st.integers(0, LONGEST),
    rows=st.integers(1, 9),
    wanted=st.integers(1, 9),
    noise=st.integers(0, 4),
    known=st.sampled_from([300, 280]),
)
ROUNDS = st.lists(
    st.lists(DRAFTED, min_size=1, max_size=TEXTS, unique_by=lambda part: part.text), min_size=1, max_size=4
)


class DraftTexts:
    """A draft and the contexts of its texts; noise is the same array wherever it is the same noise."""

    def __init__(self, bundle: Path) -> None:
        self.engines = OnnxDraft(Bundle.open(bundle), 1)
        self.contexts = [self.engines.context() for _ in range(TEXTS)]
        self.noises: dict[tuple[int, int], np.ndarray] = {}
        rng = np.random.default_rng(7)
        for context in self.contexts:
            for cache in context.caches:
                cache.fill(rng, LONGEST + 9)

    def run(self, parts: Sequence[Drafted]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best candidates of each part, all segments and the head run together."""
        lanes = []
        for part in parts:
            rows = np.arange(part.start, part.start + part.rows)
            tokens, seen = (rows * 7 + part.text) % 300, np.tri(part.rows, dtype=bool)
            lanes.append(Lane(self.contexts[part.text], tokens, rows, part.start, part.start, seen))
        for segment in range(len(self.engines.layers)):
            self.engines.forward(segment, lanes)
        heads = [self._head(part, len(self.engines.layers) - 1) for part in parts]
        return [(tokens.copy(), logprobs.copy()) for tokens, logprobs in self.engines.candidates(heads)]

    def _head(self, part: Drafted, segment: int) -> HeadLane:
        key = part.noise, part.known
        if key not in self.noises:
            self.noises[key] = np.random.default_rng(part.noise).gumbel(size=part.known).astype(np.float32)
        stop = part.start + part.rows
        return HeadLane(self.contexts[part.text], segment, stop - min(part.rows, part.wanted), stop, self.noises[key])


@pytest.fixture(scope="module")
def together(draft_bundle: Path) -> DraftTexts:
    return DraftTexts(draft_bundle)


@pytest.fixture(scope="module")
def apart(draft_bundle: Path) -> DraftTexts:
    return DraftTexts(draft_bundle)


@settings(max_examples=30)
@given(rounds=ROUNDS)
def test_texts_that_draft_together_get_the_candidates_that_each_gets_alone(
    together: DraftTexts, apart: DraftTexts, rounds: list[list[Drafted]]
) -> None:
    for parts in rounds:
        expected = [apart.run([part])[0] for part in parts]
        for (tokens, logprobs), (_, ours), part in zip(together.run(parts), expected, parts, strict=True):
            assert np.allclose(logprobs, ours, atol=CLOSE)
            assert tokens.max() < part.known
            assert len(tokens) == min(part.rows, part.wanted)


def test_a_head_of_an_earlier_bundle_takes_one_row_of_noise_and_answers_text_by_text(
    draft_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(draft_bundle, tmp_path / "earlier.engine"))
    manifest = json.loads((folder / MANIFEST).read_text())
    file = manifest["graphs"][names.HEAD]
    head = onnx.load(folder / file, load_external_data=False)
    noise = next(entry for entry in head.graph.input if entry.name == names.NOISE)
    noise.type.tensor_type.shape.dim[0].dim_value = 1
    content = head.SerializeToString()
    (folder / file).write_bytes(content)
    manifest["files"][file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))

    def candidates(directory: Path) -> list[np.ndarray]:
        engines, rng = OnnxDraft(Bundle.open(directory), 1), np.random.default_rng(0)
        contexts = [engines.context() for _ in range(3)]
        for context in contexts:
            context.hidden[0][:4] = rng.standard_normal((4, 64))
        lanes = [HeadLane(context, 0, 0, 1 + n, rng.random(300, np.float32)) for n, context in enumerate(contexts)]
        return [tokens.copy() for tokens, _ in engines.candidates(lanes)]

    for ours, theirs in zip(candidates(folder), candidates(draft_bundle), strict=True):
        assert np.array_equal(ours, theirs)
