"""A manifest that does not belong to its graphs is found when they are loaded, not when arrays meet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.placement import Placement
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets.target import Target
from s2d_trt import memory
from s2d_trt.errors import BundleError, CapacityError

ONE_THREAD = Placement(threads=1)


def changed(source: Path, folder: Path, **changes: Any) -> Path:
    directory = Path(shutil.copytree(source, folder / source.name))
    data = json.loads((directory / "manifest.json").read_text())
    for name, value in changes.items():
        data[name] = data[name] | value if isinstance(value, dict) else value
    (directory / "manifest.json").write_text(json.dumps(data))
    return directory


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"num_hidden_layers": 2}, r"past_key_values\.2\.key is not expected"),
        ({"num_hidden_layers": 4}, r"past_key_values\.3\.key is missing"),
        ({"num_key_value_heads": 1}, r"past_key_values\.0\.key is tensor\(float\) \[1, 'cache_length', 48\] where"),
        ({"head_dim": 8}, r"past_key_values\.0\.key is"),
        ({"vocab_size": 299}, r"logits is tensor\(float\) \['logit_rows_length', 300\] where"),
    ],
)
def test_a_target_whose_manifest_has_other_sizes_is_refused(
    other_target_bundle: Path, tmp_path: Path, model: dict[str, int], name: str
) -> None:
    with pytest.raises(BundleError, match=f"does not fit its manifest: {name}"):
        Target.open(changed(other_target_bundle, tmp_path, model=model), ONE_THREAD)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"head_top_k": 8}, "top_tokens is"),
        ({"exits": [1, 4, 6]}, r"past_key_values\.1\.key is not expected"),
        ({"model": {"hidden_size": 60}}, "output_hidden_states is"),
    ],
)
def test_a_draft_whose_manifest_has_other_sizes_is_refused(
    draft_bundle: Path, tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(BundleError, match=f"does not fit its manifest: {name}"):
        SortedDraft.open(changed(draft_bundle, tmp_path, **changes), ONE_THREAD)


def test_lanes_whose_graphs_are_of_another_number_are_refused(other_target_bundle: Path, tmp_path: Path) -> None:
    graphs = json.loads((other_target_bundle / "manifest.json").read_text())["graphs"]
    directory = changed(other_target_bundle, tmp_path, graphs={"target_lanes_2": graphs["target_lanes_4"]})
    with pytest.raises(BundleError, match="does not fit its manifest"):
        Target.open(directory, ONE_THREAD).open_lanes(2)


def test_more_positions_than_the_graph_has_are_one_error_where_they_are_reached(
    other_target_bundle: Path, tmp_path: Path
) -> None:
    target = Target.open(changed(other_target_bundle, tmp_path, cache={"max_length": 320}), ONE_THREAD)
    text = target.lease()
    with pytest.raises(BundleError, match=r"cannot run .*out of range"):
        text.prefill([5] * 300)


def test_a_bundle_that_the_memory_cannot_hold_is_refused_before_it_is_loaded(
    other_target_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(CapacityError, match=r"bundle other needs 0\.\d MiB of memory and 0\.0 MiB are free here"):
        Target.open(other_target_bundle, ONE_THREAD)
