"""Graphs against PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export import target
from export.parity import BOUND, ParityError, check_parity, measure, report
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CheckpointError


def errors(bundle: Path, checkpoint: Path) -> dict[str, float]:
    return measure(Bundle.open(bundle).manifest, bundle, checkpoint)


def test_every_exit_agrees_with_pytorch(draft_bundle, draft_checkpoint):
    found = errors(draft_bundle, draft_checkpoint)
    assert list(found) == ["exit 2", "exit 4", "exit 6"]
    assert max(found.values()) < BOUND / 10


def test_a_targets_prefill_and_tree_agree_with_pytorch(target_bundle, target_checkpoint):
    found = errors(target_bundle, target_checkpoint)
    assert list(found) == ["prefill", "tree"]
    assert max(found.values()) < BOUND / 10


def test_a_tied_target_of_another_shape_agrees_with_pytorch(other_target_bundle, other_target_checkpoint):
    assert max(errors(other_target_bundle, other_target_checkpoint).values()) < BOUND / 10


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": None},
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 24},
        {"rope_theta": 500000.0, "rope_parameters": None, "rms_norm_eps": 1e-3},
    ],
    ids=["as many key heads as heads", "one key head, heads wider than the model", "another theta and epsilon"],
)
def test_other_members_of_the_family_agree_with_pytorch(checkpoint, tmp_path, changes):
    checkpoint.edit_json(**changes, exits=None)
    heads, kv, size = (
        changes.get(name) or default
        for name, default in (("num_attention_heads", 4), ("num_key_value_heads", 2), ("head_dim", 16))
    )
    widths = {"q_proj": heads * size, "k_proj": kv * size, "v_proj": kv * size}
    rng = np.random.default_rng(2)

    def reshape(tensors):
        for name, array in tensors.items():
            part = name.split(".")[-2]
            if part in widths:
                tensors[name] = (rng.standard_normal((widths[part], 64)) / 8).astype(np.float32)
            elif part == "o_proj":
                tensors[name] = (rng.standard_normal((64, heads * size)) / 8).astype(np.float32)
            else:
                tensors[name] = array.astype(np.float32)

    checkpoint.edit_tensors(reshape)
    out = tmp_path / "target.engine"
    target.main(["--checkpoint", str(checkpoint.directory), "--out", str(out)])
    assert max(errors(out, checkpoint.directory).values()) < BOUND / 10


@pytest.mark.parametrize("part", ["model.layers.3.mlp.up_proj.weight", "model.norm.weight"])
def test_a_graph_with_other_weights_is_caught(draft_bundle, draft_checkpoint, tmp_path, part):
    changed = Path(shutil.copytree(draft_checkpoint, tmp_path / "changed"))
    path = changed / "model.safetensors"
    tensors = load_file(path)
    tensors[part] = (tensors[part].astype(np.float32) * 1.05).astype(tensors[part].dtype)
    save_file(tensors, path)
    with pytest.raises(ParityError, match="nothing was published"):
        check_parity(Bundle.open(draft_bundle).manifest, draft_bundle, changed)


@pytest.mark.parametrize("error", [2 * BOUND, np.inf, np.nan])
def test_an_error_above_the_bound_or_not_a_number_fails(error):
    with pytest.raises(ParityError, match="exit 6"):
        report({"exit 2": 1e-6, "exit 6": error})


def test_the_report_states_the_largest_error_and_the_bound():
    assert report({"prefill": 1e-6, "tree": 3e-6}).startswith("max abs logit error 3.0e-06 against PyTorch")
    assert "bound 0.001" in report({"prefill": 0.0})


def test_a_checkpoint_that_transformers_cannot_load_is_one_clear_error(draft_bundle, tmp_path):
    with pytest.raises(CheckpointError, match="--no-parity"):
        check_parity(Bundle.open(draft_bundle).manifest, draft_bundle, tmp_path)
