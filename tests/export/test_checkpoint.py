"""Reading Hugging Face directories, good and bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.checkpoint import Checkpoint, check_tokenizer
from export.tensors import EMBEDDING, checkpoint_shapes, layer_tensor
from s2d_trt.errors import CheckpointError

QUERY = layer_tensor(0, "self_attn.q_proj")


def check(directory: Path) -> None:
    found = Checkpoint.open(directory)
    found.check_tensors(checkpoint_shapes(found.spec))
    for name in checkpoint_shapes(found.spec):
        found.read(name)


def test_the_spec_exits_and_token_ids_come_from_the_configs(draft_checkpoint):
    found = Checkpoint.open(draft_checkpoint)
    assert (found.spec.hidden_size, found.spec.num_hidden_layers, found.spec.kv_width) == (64, 6, 32)
    assert found.spec.rope_theta == 10000.0
    assert (found.exits, found.config.max_length) == ((2, 4, 6), 256)
    assert (found.config.bos_token_id, found.config.eos_token_ids) == (0, (0,))


def test_bfloat16_is_read_without_a_change_of_value(draft_checkpoint):
    import torch
    from safetensors.torch import load_file as load_torch

    expected = load_torch(draft_checkpoint / "model.safetensors")[QUERY]
    assert expected.dtype == torch.bfloat16
    np.testing.assert_array_equal(Checkpoint.open(draft_checkpoint).read(QUERY), expected.float().numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_float16_and_float32_are_read_too(checkpoint, dtype):
    checkpoint.edit_tensors(lambda tensors: {name: array.astype(dtype) for name, array in tensors.items()})
    assert Checkpoint.open(checkpoint.directory).read(QUERY).dtype == np.float32
    check(checkpoint.directory)


def test_a_sharded_checkpoint_equals_a_single_file(checkpoint):
    before = Checkpoint.open(checkpoint.directory).read(EMBEDDING)
    shard(checkpoint.directory)
    check(checkpoint.directory)
    np.testing.assert_array_equal(Checkpoint.open(checkpoint.directory).read(EMBEDDING), before)


def shard(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_missing_shard_is_named(checkpoint):
    shard(checkpoint.directory)
    (checkpoint.directory / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"part-1\.safetensors is missing"):
        check(checkpoint.directory)


def test_an_index_that_points_outside_the_directory_is_refused(checkpoint):
    shard(checkpoint.directory)
    index = checkpoint.directory / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("part-1", "../part-1"))
    with pytest.raises(CheckpointError, match="is missing"):
        check(checkpoint.directory)


def test_a_tensor_that_its_shard_lacks_is_named(checkpoint):
    shard(checkpoint.directory)
    part = checkpoint.directory / "part-0.safetensors"
    tensors = load_file(part)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, part)
    with pytest.raises(CheckpointError, match=f"has no tensor {lost}"):
        check(checkpoint.directory)


def test_eos_may_be_a_list_and_may_stand_in_generation_config_alone(checkpoint):
    checkpoint.edit_json(drop=("eos_token_id", "bos_token_id"))
    checkpoint.edit_json("generation_config.json", eos_token_id=[7, 9], bos_token_id=3)
    found = Checkpoint.open(checkpoint.directory)
    assert (found.config.bos_token_id, found.config.eos_token_ids) == (3, (7, 9))


def test_eos_ids_of_both_files_all_end_a_text(checkpoint):
    checkpoint.edit_json(eos_token_id=5)
    checkpoint.edit_json("generation_config.json", eos_token_id=[7, 5])
    assert Checkpoint.open(checkpoint.directory).config.eos_token_ids == (7, 5)


def test_generation_config_may_be_absent(checkpoint):
    (checkpoint.directory / "generation_config.json").unlink()
    assert Checkpoint.open(checkpoint.directory).config.eos_token_ids == (0,)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_parameters": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": None, "rope_scaling": {"type": "default", "rope_theta": 5e5}},
    ],
)
def test_rope_theta_may_stand_where_either_transformers_version_writes_it(checkpoint, fields):
    checkpoint.edit_json(**fields)
    assert Checkpoint.open(checkpoint.directory).spec.rope_theta == 5e5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; supported is 'llama'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported is 'silu'"),
        ({"attention_bias": True}, r"has no tensor model\.layers\.0\.self_attn\.q_proj\.bias"),
        ({"mlp_bias": True}, r"has no tensor model\.layers\.0\.mlp\.gate_proj\.bias"),
        ({"quantization_config": {"bits": 4}}, "take the checkpoint that is not quantised"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": 3}, "rope_parameters is 3"),
        ({"rope_theta": 77.0}, "rope_theta is given as 77 and 10000"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ({"rms_norm_eps": 1e300}, r"rms_norm_eps is 1e\+300"),
        ({"rms_norm_eps": 1e-300}, r"out of range .*rms_norm_eps"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 5000}, r"out of range .*num_hidden_layers"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"max_position_embeddings": 10**18}, "max_position_embeddings is 1000000000000000000"),
        ({"rope_theta": 1e300, "rope_parameters": None}, "rope_theta is 1e"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 1e300}}, "factor is 1e"),
        ({"hidden_size": 10**60}, r"hidden_size is 1000.*must be a whole number from 1 to"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; supported is a divisor"),
        ({"num_attention_heads": 6, "head_dim": None}, "hidden_size is 64; supported is a multiple"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"max_position_embeddings": None}, "has no max_position_embeddings"),
        ({"eos_token_id": 300}, "eos_token_id is 300; it must be token ids below vocab_size 300"),
        ({"eos_token_id": "end"}, "eos_token_id is 'end'"),
        ({"exits": "2,4"}, "exits is '2,4'"),
        ({"exits": [4, 2]}, "exits is"),
        ({"exits": [2, 7]}, "increasing layer counts up to num_hidden_layers 6"),
        ({"vocab_size": 299}, r"has shape \[300, 64\] where config.json asks for \[299, 64\]"),
        ({"intermediate_size": 128}, r"mlp\.\w+_proj\.weight in model.safetensors has shape"),
        ({"num_hidden_layers": 7}, r"has no tensor model\.layers\.6"),
        (
            {"num_hidden_layers": 5, "exits": None},
            r"holds model\.layers\.5\S+, which is no part of a 5-layer model",
        ),
    ],
)
def test_a_config_that_is_wrong_or_not_supported_names_the_field(checkpoint, fields, message):
    checkpoint.edit_json(**fields)
    with pytest.raises(CheckpointError, match=message):
        check(checkpoint.directory)


def test_untied_weights_without_a_head_are_refused_by_name(checkpoint):
    checkpoint.edit_tensors(lambda tensors: {k: v for k, v in tensors.items() if k != "lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"has no tensor lm_head\.weight"):
        check(checkpoint.directory)


def test_frequencies_that_old_checkpoints_store_are_passed_over(checkpoint):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    checkpoint.edit_tensors(lambda tensors: tensors | {name: np.zeros(8, np.float32)})
    check(checkpoint.directory)


def test_a_link_out_of_the_directory_is_refused(checkpoint, tmp_path):
    weights = checkpoint.directory / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="is a link out of its directory"):
        Checkpoint.open(checkpoint.directory)


def test_a_snapshot_of_the_hugging_face_cache_may_link_to_its_blobs(checkpoint, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in checkpoint.directory.iterdir():
        path.rename(blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    check(snapshot)


def test_integer_weights_are_refused(checkpoint):
    checkpoint.edit_tensors(lambda tensors: tensors | {QUERY: np.zeros((64, 64), np.int8)})
    with pytest.raises(CheckpointError, match="is I8; supported are BF16, F16, F32"):
        check(checkpoint.directory)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(checkpoint, value):
    def poison(tensors):
        tensors[QUERY] = tensors[QUERY].copy()
        tensors[QUERY][3, 5] = value

    checkpoint.edit_tensors(poison)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        check(checkpoint.directory)


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_weight_file_is_named(checkpoint, kept):
    path = checkpoint.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        check(checkpoint.directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint.directory / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        check(checkpoint.directory)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory at"):
        Checkpoint.open(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_config_that_is_no_json_object_is_refused(checkpoint, text):
    (checkpoint.directory / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="JSON"):
        check(checkpoint.directory)


def test_pickled_weights_are_refused(checkpoint):
    (checkpoint.directory / "model.safetensors").rename(checkpoint.directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights only"):
        check(checkpoint.directory)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(draft_checkpoint):
    import dataclasses

    spec = Checkpoint.open(draft_checkpoint).spec
    check_tokenizer(draft_checkpoint / "tokenizer.json", spec)
    with pytest.raises(CheckpointError, match="beyond the model's vocab_size 100"):
        check_tokenizer(draft_checkpoint / "tokenizer.json", dataclasses.replace(spec, vocab_size=100))


@pytest.mark.parametrize("text", [None, "{}", "not JSON"])
def test_a_tokenizer_that_cannot_be_loaded_is_refused(checkpoint, text):
    path = checkpoint.directory / "tokenizer.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        check_tokenizer(path, Checkpoint.open(checkpoint.directory).spec)


@pytest.mark.parametrize("name", ["lm_head.bias", "model.norm.bias", "model.layers.0.input_layernorm.bias"])
def test_a_tensor_that_the_graphs_would_leave_out_is_refused(checkpoint, name):
    checkpoint.edit_tensors(lambda tensors: tensors | {name: np.zeros(64, np.float32)})
    with pytest.raises(CheckpointError, match=f"holds {name}"):
        Checkpoint.open(checkpoint.directory)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_no_file_of_a_checkpoint_may_be_a_link_out_of_it(checkpoint, tmp_path, name):
    path = checkpoint.directory / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} is a link out of its directory"):
        check_tokenizer(checkpoint.directory / "tokenizer.json", Checkpoint.open(checkpoint.directory).spec)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (lambda path: path.write_text("[" * 100_000), "nested deeper"),
        (lambda path: path.write_text('{"a": 1, "a": 2}'), "comes twice"),
        (lambda path: path.write_text('{"a": Infinity}'), "Infinity is no number"),
        (lambda path: path.write_bytes(b"\xff{}"), "not UTF-8"),
    ],
)
def test_a_config_of_another_kind_or_form_is_one_error(checkpoint, name, make, reason):
    path = checkpoint.directory / name
    path.unlink()
    make(path)
    if name == "generation_config.json" and not path.is_file():
        return  # a checkpoint may do without it
    with pytest.raises(CheckpointError, match=rf"{name} .*{reason}"):
        Checkpoint.open(checkpoint.directory)
