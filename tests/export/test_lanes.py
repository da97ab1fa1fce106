"""Graphs for several texts: each lane's rows are those that the graph for one text gives, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import build, target
from export.options import MOST_LANES
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.cli import run_command
from s2d_trt.manifest import MANIFEST

Array = np.ndarray[Any, Any]
SLOTS = (64, 128, 64, 192)
"""Each lane has a cache of its own length."""
HIDDEN = 64


@dataclass(frozen=True)
class Rows:
    """A lane: rows of a tree behind ``start`` cached ones. Where a row is alone, a dummy keeps it company."""

    start: int
    parents: list[int]
    seed: int
    dummy: bool = False

    @property
    def count(self) -> int:
        return len(self.parents)

    @property
    def dummies(self) -> int:
        return int(self.count < 2 or self.dummy)

    @property
    def positions(self) -> Array:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return np.array([*depths, *[0] * self.dummies], np.int64) + self.start

    def first_input(self, name: str) -> Array:
        """Tokens or hidden states of the rows, without dummies."""
        rng = np.random.default_rng(self.seed)
        if name == names.INPUT_IDS:
            return rng.integers(0, 300, self.count)
        return rng.standard_normal((self.count, HIDDEN), np.float32)

    def mask(self, slots: int) -> Array:
        """What each row reads; a dummy reads only itself."""
        readable = np.zeros((self.count + self.dummies, slots), bool)
        readable[: self.count, : self.start] = True
        for row, parent in enumerate(self.parents):
            if parent >= 0:
                readable[row] |= readable[parent]
            readable[row, self.start + row] = True
        for row in range(self.count, self.count + self.dummies):
            readable[row, self.start + row] = True
        return readable

    def cached(self, slots: int, shape: Sequence[int], name: str) -> Array:
        """What a cache holds before the call."""
        rng = np.random.default_rng([self.seed, *name.encode()])
        cache = np.zeros((1, slots, shape[-1]), np.float32)
        cache[:, : self.start] = rng.standard_normal((1, self.start, shape[-1]), np.float32)
        return cache


@dataclass(frozen=True)
class Result:
    """A lane's outputs at its rows, and what its caches hold afterwards, dummies aside."""

    rows: Array
    caches: dict[str, Array]

    def same(self, other: Result) -> bool:
        caches = (np.array_equal(self.caches[name], other.caches[name]) for name in other.caches)
        return np.array_equal(self.rows, other.rows) and self.caches.keys() == other.caches.keys() and all(caches)


class Form:
    """One graph in one session."""

    def __init__(self, bundle: Path, graph: str, lanes: int) -> None:
        opened, options = Bundle.open(bundle), ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        path = opened.path(opened.manifest.graphs[names.in_lanes(graph, lanes)])
        self.session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.shapes = {entry.name: entry.shape for entry in self.session.get_inputs()}
        self.lanes = lanes
        self.first = names.INPUT_IDS if names.INPUT_IDS in self.shapes else names.HIDDEN_STATES

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        outputs = [entry.name for entry in self.session.get_outputs()]
        return dict(zip(outputs, self.session.run(outputs, feeds), strict=True))

    def alone(self, lane: Rows, slots: int) -> Result:
        """A lane's rows in the graph for one text, a dummy packed with them."""
        rows, padding = lane.first_input(self.first), [(0, lane.dummies)]
        rows = np.pad(rows, padding + [(0, 0)] * (rows.ndim - 1), mode="edge" if lane.count else "constant")
        feeds = {
            self.first: rows[None],
            names.POSITION_IDS: lane.positions[None],
            names.ATTENTION_MASK: lane.mask(slots),
            names.WRITE_INDEX: np.array([lane.start]),
        }
        pasts = [name for name in self.shapes if name.startswith(names.PAST)]
        feeds |= {name: lane.cached(slots, self.shapes[name], name) for name in pasts}
        if names.LOGIT_ROWS in self.shapes:
            feeds[names.LOGIT_ROWS] = np.arange(len(rows))
        found, stop = self.run(feeds), lane.start + lane.count
        caches = {name: found[names.present_of(name)][:, :stop] for name in pasts}
        return Result(self._rows(found)[: lane.count], caches)

    def together(self, lanes: Sequence[Rows]) -> list[Result]:
        """The rows of all lanes in one call; a lane without rows has one dummy."""
        attention_rows: list[int] = []
        packed_rows: list[int] = []
        for lane in lanes:
            first = len(packed_rows)
            packed_rows += range(len(attention_rows), len(attention_rows) + lane.count)
            attention_rows += [*range(first, first + lane.count), *[max(0, first + lane.count - 1)] * lane.dummies]
        feeds = {
            self.first: np.concatenate([lane.first_input(self.first) for lane in lanes])[None],
            names.POSITION_IDS: np.concatenate([lane.positions for lane in lanes])[None],
            names.WRITE_INDEX: np.array([lane.start for lane in lanes]),
            names.LANE_ROWS: np.array([lane.count + lane.dummies for lane in lanes]),
            names.ATTENTION_ROWS: np.array(attention_rows),
            names.PACKED_ROWS: np.array(packed_rows),
        }
        pasts: list[dict[str, str]] = [{} for _ in lanes]
        for name in self.shapes:
            if name.startswith(names.PAST):
                alone, _, lane = name.rpartition(".")
                pasts[int(lane)][alone] = name
        for index, lane in enumerate(lanes):
            feeds[names.lane_mask(index)] = lane.mask(SLOTS[index])
            for alone, name in pasts[index].items():
                feeds[name] = lane.cached(SLOTS[index], self.shapes[name], alone)
        if names.LOGIT_ROWS in self.shapes:
            feeds[names.LOGIT_ROWS] = np.arange(len(packed_rows))
        found, results, start = self.run(feeds), [], 0
        for index, lane in enumerate(lanes):
            stop = lane.start + lane.count
            caches = {alone: found[names.present_of(name)][:, :stop] for alone, name in pasts[index].items()}
            results.append(Result(self._rows(found)[start : start + lane.count], caches))
            start += lane.count
        return results

    def _rows(self, found: dict[str, Array]) -> Array:
        return found[names.LOGITS] if names.LOGITS in found else found[names.OUTPUT_HIDDEN_STATES][0]


CHAINS = st.integers(0, 6).map(lambda rows: list(range(-1, rows - 1)))
TREES = st.integers(1, 8).flatmap(
    lambda rows: st.tuples(*[st.integers(-1 if row == 0 else 0, max(-1, row - 1)) for row in range(rows)]).map(list)
)
LANES = st.builds(
    Rows, start=st.integers(0, 50), parents=st.one_of(CHAINS, TREES), seed=st.integers(0, 99), dummy=st.booleans()
)


def several(count: int) -> st.SearchStrategy[list[Rows]]:
    """Lanes with at least two rows in all: calls of one row have a graph of their own."""
    lanes = st.lists(LANES, min_size=count, max_size=count)
    return lanes.filter(lambda each: sum(lane.count for lane in each) > 1)


KINDS = {
    "folded heads": ("other_target_bundle", names.TARGET),
    "a key head for each head": ("unshared_target_bundle", names.TARGET),
    "int8 rows": ("int8_target_bundle", names.TARGET),
    "first segment": ("draft_bundle", names.segment(0)),
    "later segment": ("draft_bundle", names.segment(1)),
}


@pytest.fixture(params=KINDS, scope="module")
def forms(request: pytest.FixtureRequest) -> Callable[[int], Form]:
    """Opens the form of a graph for so many lanes."""
    fixture, graph = KINDS[request.param]
    bundle, opened = request.getfixturevalue(fixture), dict[int, Form]()

    def form(lanes: int) -> Form:
        if lanes not in opened:
            opened[lanes] = Form(bundle, graph, lanes)
        return opened[lanes]

    return form


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("count", [2, 4])
def test_each_lane_has_the_bits_that_it_has_alone(
    forms: Callable[[int], Form], count: int, data: st.DataObject
) -> None:
    lanes = data.draw(several(count))
    for index, result in enumerate(forms(count).together(lanes)):
        if lanes[index].count:
            assert result.same(forms(1).alone(lanes[index], SLOTS[index]))


def test_an_empty_lane_changes_no_other(forms: Callable[[int], Form]) -> None:
    chain, tree, empty = Rows(7, [-1, 0, 1], 1), Rows(40, [-1, 0, 0, 2], 2), Rows(0, [], 3)
    both = forms(2).together([chain, tree])
    beside = forms(4).together([empty, chain, empty, tree])
    # The other lanes' caches are of another length here.
    assert [result.rows.tolist() for result in beside[1::2]] == [result.rows.tolist() for result in both]


def test_a_dummy_row_changes_no_other_row_of_its_lane(forms: Callable[[int], Form]) -> None:
    lanes = [Rows(7, [-1, 0, 1], 1), Rows(40, [-1, 0, 0, 2], 2)]
    accompanied = [Rows(lane.start, lane.parents, lane.seed, dummy=True) for lane in lanes]
    for plain, result in zip(forms(2).together(lanes), forms(2).together(accompanied), strict=True):
        assert result.same(plain)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(rows=st.lists(st.integers(1, 4), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_the_head_takes_a_row_of_noise_for_each_row(draft_bundle: Path, rows: list[int], seed: int) -> None:
    head, rng = Form(draft_bundle, names.HEAD, 1), np.random.default_rng(seed)
    hidden = [rng.standard_normal((1, count + 1, HIDDEN), np.float32) for count in rows]
    noises = [rng.standard_normal((1, 300), np.float32) for _ in rows]
    calls = zip(hidden, noises, strict=True)
    each = [head.run({names.HIDDEN_STATES: states, names.NOISE: noise}) for states, noise in calls]
    noise = np.concatenate([np.repeat(row, count + 1, axis=0) for row, count in zip(noises, rows, strict=True)])
    together = head.run({names.HIDDEN_STATES: np.concatenate(hidden, axis=1), names.NOISE: noise})
    for name, values in together.items():
        assert np.array_equal(values, np.concatenate([alone[name] for alone in each]))


# What a build makes


@pytest.fixture(params=["build", "target"])
def command(request: pytest.FixtureRequest) -> Any:
    return {"build": build, "target": target}[request.param]


def built(command: Any, checkpoint: Path, out: Path, *options: str) -> Bundle:
    command.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity", *options])
    return Bundle.open(out)


def graphs_with_attention(bundle: Bundle) -> list[str]:
    return [name for name in bundle.manifest.graphs if name != names.HEAD]


def test_a_graph_for_one_text_alone_is_built_where_that_is_asked_for(
    command: Any, draft_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = built(command, draft_checkpoint, tmp_path / "one.engine", "--lanes", "1")
    assert bundle.manifest.lanes == (1,)
    assert not [name for name in bundle.manifest.graphs if "lanes" in name]


def test_the_lanes_that_are_asked_for_are_built_beside_the_graph_for_one(
    command: Any, draft_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = built(command, draft_checkpoint, tmp_path / "some.engine", "--lanes", "5,3,3")
    assert bundle.manifest.lanes == (1, 3, 5)
    one = {name for name in graphs_with_attention(bundle) if "lanes" not in name}
    assert set(graphs_with_attention(bundle)) == {names.in_lanes(name, count) for name in one for count in (1, 3, 5)}


@pytest.mark.parametrize("lanes", ["0", "-2", str(MOST_LANES + 1), "1,0"])
def test_numbers_of_lanes_that_cannot_be_are_refused_in_one_line(
    command: Any, draft_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lanes: str
) -> None:
    argv = ["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "none.engine"), f"--lanes={lanes}"]
    with pytest.raises(SystemExit) as stopped:
        run_command(command.PROG, command.main, argv)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.err.count("\n") == 1
    assert f"--lanes {lanes}: each number must be between 1 and {MOST_LANES}" in printed.err
    assert not list(tmp_path.iterdir())


def test_several_numbers_of_lanes_are_refused_for_tensorrt(
    command: Any, draft_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "none.engine"), "--backend", "tensorrt"]
    with pytest.raises(SystemExit) as stopped:
        run_command(command.PROG, command.main, [*argv, "--no-compile", "--lanes", "2,4"])
    assert stopped.value.code == 2
    assert "TensorRT's graphs serve any number of texts up to one; give that, like --lanes 4" in capsys.readouterr().err


def test_the_rows_of_each_lane_have_stated_shapes(draft_bundle: Path) -> None:
    # Without them a session takes seconds to infer them.
    bundle = Bundle.open(draft_bundle)
    for count in bundle.manifest.lanes[1:]:
        path = bundle.path(bundle.manifest.graphs[names.in_lanes(names.segment(0), count)])
        graph = onnx.load(path, load_external_data=False).graph
        stated = {value.name for value in graph.value_info}
        # Other Splits cut a product into query, key and value, or the write index by lane.
        cut = [node for node in graph.node if node.op_type == "Split" and node.attribute[0].i == 1]
        rows = [name for node in cut for name in node.output]
        joined = [node.output[0] for node in graph.node if node.op_type == "Concat"]
        assert rows
        assert joined
        assert {*rows, *joined} <= stated


def test_a_bundle_without_lanes_in_its_manifest_takes_one_text_a_call(target_bundle: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(target_bundle, tmp_path / "older.engine"))
    content = json.loads((older / MANIFEST).read_text(encoding="utf-8"))
    del content["lanes"]
    (older / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    assert Bundle.open(older, kind="target").manifest.lanes == (1,)
