"""Whether bits depend on the call is computed once for each machine; calls of texts that change them are not made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import TargetLane
from runtime.backends.placement import Placement
from runtime.targets.target import Target
from runtime.tree.tree import Tree
from s2d_trt.errors import S2DError

Open = Callable[..., Target]


@pytest.fixture
def opened(target_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the target; calls with one of the ``spoiled`` numbers of lanes have other bits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def target(spoiled: Sequence[int] = ()) -> Target:
        found = Target.open(target_bundle, Placement(threads=1))
        engine: Any = found.engine
        call = engine._call

        def spoil(lanes: Sequence[TargetLane]) -> Any:
            logits = call(lanes)
            form = next(count for count in engine.lanes if count >= len(lanes))
            return [np.nextafter(rows, np.inf) for rows in logits] if form in spoiled else logits

        monkeypatch.setattr(engine, "_call", spoil)
        return found

    return target


@pytest.fixture
def said() -> list[str]:
    return []


def test_calls_of_several_texts_are_checked_once_for_each_number(opened: Open, said: list[str]) -> None:
    for texts, lines in ((1, 1), (2, 1), (2, 0), (8, 1), (8, 0), (3, 0)):
        said.clear()
        target = opened()
        target.check_exact(said.append, texts)
        assert len(said) == lines
        assert target.lanes == target.engine.lanes == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("spoiled", "texts", "lanes"), [([8], 8, (1, 2, 4)), ([4, 8], 8, (1, 2)), ([2, 4, 8], 3, (1,)), ([4], 8, (1, 2, 8))]
)
def test_numbers_of_texts_that_change_bits_are_not_used(
    opened: Open, spoiled: list[int], texts: int, lanes: tuple[int, ...]
) -> None:
    for _ in range(2):  # the second start reads the answer
        target = opened(spoiled)
        target.check_exact(texts=texts)
        assert target.lanes == target.engine.lanes == lanes
        sequences = [target.lease(8) for _ in range(5)]
        together = [np.array(logits) for logits in target.run([(each, Tree.chain([5, 9])) for each in sequences])]
        alone = [np.array(each.verify(Tree.chain([5, 9]))) for each in sequences]
        assert np.array_equal(together, alone)


def test_a_call_that_takes_the_place_of_one_that_changes_bits_is_checked_too(opened: Open) -> None:
    target = opened([4, 8])
    target.check_exact(texts=3)
    assert target.lanes == (1, 2)


def test_a_target_whose_bits_change_is_refused(opened: Open) -> None:
    target = opened()
    forward = target.engine.forward
    calls: list[int] = []

    def spoil(lanes: Sequence[TargetLane]) -> Any:
        calls.append(1)
        return [rows + np.float32(len(calls) * 1e-3) for rows in forward(lanes)]

    target.engine.forward = spoil  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(S2DError, match="other bits for the same row in another call"):
            target.check_exact()


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", '{"exact": true, "lanes": 3}', '{"lanes": {"2": "?"}}', "null"])
def test_a_damaged_answer_is_computed_again(opened: Open, said: list[str], tmp_path: Path, damage: str) -> None:
    opened().check_exact(texts=8)
    (kept,) = (tmp_path / "s2d-trt" / "exactness").glob("*.json")
    answer = json.loads(kept.read_text())
    kept.write_text(damage)
    opened().check_exact(said.append, 8)
    assert said
    assert json.loads(kept.read_text()) == answer
