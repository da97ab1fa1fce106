"""The limits of a draft tree."""

from __future__ import annotations

import pytest

from runtime.tree.shape import PAPER_TREE, TreeShape
from s2d_trt.errors import OptionError


def test_the_papers_tree_has_depth_4_top_k_10_and_60_nodes() -> None:
    assert (PAPER_TREE.depth, PAPER_TREE.top_k, PAPER_TREE.nodes) == (4, 10, 60)
    assert (PAPER_TREE.draft_rows, PAPER_TREE.verify_rows()) == (40, 60)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (TreeShape(depth=2, top_k=1), 4),
        (TreeShape(depth=0, top_k=3), 4),
        (TreeShape(depth=2, top_k=3), 22),
        (TreeShape(depth=2, top_k=3, nodes=20), 20),
    ],
)
def test_the_root_and_all_candidates_are_verified_up_to_the_limit(shape: TreeShape, rows: int) -> None:
    assert shape.verify_rows() == rows


def test_copied_tokens_need_rows_of_their_own_up_to_the_limit() -> None:
    assert TreeShape(depth=2, top_k=1, nodes=60).verify_rows(copied=16) == 20
    assert TreeShape(depth=2, top_k=1, nodes=8).verify_rows(copied=16) == 8


def test_only_top_k_1_is_a_chain() -> None:
    assert TreeShape(top_k=1).is_chain
    assert not TreeShape(top_k=2).is_chain


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"top_k": 0}, {"nodes": 1}])
def test_a_shape_that_cannot_draft_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        TreeShape(**wrong)
