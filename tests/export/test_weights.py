"""The shared weight file."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from export.checkpoint import Checkpoint
from export.rotary import COS_CACHE, Rotary
from export.tensors import EMBEDDING, checkpoint_shapes, layer_tensor
from export.weight_spec import WeightSpec
from export.weights import ALIGNMENT, write_weights
from s2d_trt.bundle import file_sha256
from s2d_trt.errors import CheckpointError


@pytest.fixture
def written(draft_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(draft_checkpoint)
    path = tmp_path / "weights.bin"
    return checkpoint, path, write_weights(checkpoint, WeightSpec(checkpoint.spec, 128), path)


def stored(path, weights, name):
    place = weights.tensors[name]
    return np.frombuffer(path.read_bytes(), np.float32, place.length // 4, place.offset).reshape(place.shape)


def test_every_tensor_begins_on_a_page_and_none_overlap(written):
    _, path, weights = written
    end = 0
    for place in sorted(weights.tensors.values(), key=lambda place: place.offset):
        assert place.offset % ALIGNMENT == 0
        assert end <= place.offset < end + ALIGNMENT
        assert place.length == 4 * np.prod(place.shape)
        end = place.offset + place.length
    assert end == weights.bytes == path.stat().st_size
    assert weights.sha256 == file_sha256(path)


def test_linear_weights_are_transposed_and_the_embedding_is_not(written):
    checkpoint, path, weights = written
    name = layer_tensor(3, "mlp.down_proj")
    np.testing.assert_array_equal(stored(path, weights, name), checkpoint.read(name).T)
    np.testing.assert_array_equal(stored(path, weights, EMBEDDING), checkpoint.read(EMBEDDING))


def test_tied_weights_are_stored_once(other_target_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(other_target_checkpoint)
    assert checkpoint.spec.tie_word_embeddings
    weights = write_weights(checkpoint, WeightSpec(checkpoint.spec, 64), tmp_path / "weights.bin")
    tables = [name for name, place in weights.tensors.items() if place.shape == (300, 96)]
    assert tables == [EMBEDDING]


def test_rotary_angles_are_those_of_transformers(draft_checkpoint):
    import torch
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    spec = Checkpoint.open(draft_checkpoint).spec
    config = AutoConfig.from_pretrained(draft_checkpoint)
    positions = torch.arange(256)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    for ours, theirs in zip(Rotary(spec.rope_theta).caches(spec.head_dim, 256), (cos, sin), strict=True):
        assert (ours.shape, ours.dtype) == ((256, spec.head_dim // 2), np.float32)
        np.testing.assert_allclose(ours, theirs[0, :, : spec.head_dim // 2].numpy(), atol=2e-5)


def test_the_rotary_caches_reach_to_max_length(written):
    assert written[2].tensors[COS_CACHE].shape == (128, 8)


def test_memory_holds_one_block_at_a_time(draft_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("export.checkpoint.BLOCK_NUMBERS", 512)
    checkpoint = Checkpoint.open(draft_checkpoint)
    tracemalloc.start()
    try:
        weights = write_weights(checkpoint, WeightSpec(checkpoint.spec, 64), tmp_path / "weights.bin")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    largest = max(place.length for place in weights.tensors.values())
    assert peak < largest + 2**17 < weights.bytes


@pytest.mark.parametrize("block", [1, 100, 512, 10**6])
def test_the_size_of_a_block_changes_nothing(written, tmp_path, monkeypatch, block):
    checkpoint, _, weights = written
    monkeypatch.setattr("export.checkpoint.BLOCK_NUMBERS", block)
    assert write_weights(checkpoint, WeightSpec(checkpoint.spec, 128), tmp_path / "again.bin") == weights


def test_the_size_is_known_before_anything_is_written(written):
    checkpoint, _, weights = written
    expected = WeightSpec(checkpoint.spec, 128).bytes
    assert expected == sum(place.length for place in weights.tensors.values())
    assert expected <= weights.bytes < expected + ALIGNMENT * len(weights.tensors)


def test_nothing_is_written_when_a_tensor_is_wrong(draft_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(draft_checkpoint)
    wider = dataclasses.replace(checkpoint.spec, intermediate_size=97)
    with pytest.raises(CheckpointError, match="has shape"):
        write_weights(checkpoint, WeightSpec(wider, 64), tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()


def test_layers_above_the_last_exit_are_left_out(draft_checkpoint):
    spec = dataclasses.replace(Checkpoint.open(draft_checkpoint).spec, num_hidden_layers=2)
    assert not [name for name in checkpoint_shapes(spec) if name.startswith("model.layers.2.")]
