"""Every family that is read computes what transformers computes; every other is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from export import build, target
from export.checkpoint import Checkpoint
from export.config import Config
from export.parity import measure
from export.weight_spec import WeightSpec
from export.weights import write_weights
from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.targets.target import Target
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BOUND = 2e-5
"""Of float32 sums in another order, on logits of a few units."""

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def llama(**changes: Any) -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SIZES | changes)


def mistral(**changes: Any) -> PretrainedConfig:
    from transformers import MistralConfig

    return MistralConfig(**SIZES | {"sliding_window": None} | changes)


def qwen2(**changes: Any) -> PretrainedConfig:
    from transformers import Qwen2Config

    return Qwen2Config(**SIZES | changes)


def qwen3(**changes: Any) -> PretrainedConfig:
    from transformers import Qwen3Config

    return Qwen3Config(**SIZES | {"head_dim": 16} | changes)


FORMS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama 2": lambda: llama(num_key_value_heads=4),
    "llama 3, scaled": lambda: llama(rope_parameters=LLAMA3),
    "llama, linear": lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}),
    "llama, biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama, three heads a key head": lambda: llama(num_attention_heads=6, head_dim=8),
    "llama, five, biases": lambda: llama(hidden_size=40, num_attention_heads=10, head_dim=8, attention_bias=True),
    "llama, six": lambda: llama(num_attention_heads=12, head_dim=8),
    "llama, MQA, wide heads, tied": lambda: llama(num_key_value_heads=1, head_dim=32, tie_word_embeddings=True),
    "mistral": mistral,
    "mistral, windowed": lambda: mistral(sliding_window=100),
    "qwen2": lambda: qwen2(tie_word_embeddings=True),
    "qwen3": qwen3,
    "qwen3, biases": lambda: qwen3(attention_bias=True),
}


def saved(config: PretrainedConfig, directory: Path, **options: Any) -> Path:
    """A random model of this form, its biases and norms far from their neutral values, as transformers saves it."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.conftest import write_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(0.0, weight.shape[1] ** -0.5)
                else:
                    weight.uniform_(0.5, 1.5)
    model.save_pretrained(directory, **options)
    write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("form", FORMS)
def test_a_target_of_every_form_gives_transformers_logits(form: str, tmp_path: Path) -> None:
    checkpoint, bundle = saved(FORMS[form](), tmp_path / "checkpoint"), tmp_path / "target.engine"
    longest = ["--max-length", "100"] if form == "mistral, windowed" else []
    target.main(["--checkpoint", str(checkpoint), "--out", str(bundle), "--no-parity", *longest])
    errors = measure(Bundle.open(bundle).manifest, bundle, checkpoint)
    assert set(errors) == {"prefill", "tree"}
    assert max(errors.values()) < BOUND


@pytest.mark.parametrize("form", ["mistral", "qwen2", "qwen3"])
def test_a_sorted_draft_may_be_of_any_family(form: str, tmp_path: Path) -> None:
    checkpoint, bundle = saved(FORMS[form](), tmp_path / "checkpoint"), tmp_path / "draft.engine"
    build.main(["--exits", "1,3", "--checkpoint", str(checkpoint), "--out", str(bundle), "--no-parity"])
    errors = measure(Bundle.open(bundle).manifest, bundle, checkpoint)
    assert set(errors) == {"exit 1", "exit 3"}
    assert max(errors.values()) < BOUND


def test_the_runtime_continues_as_transformers_does(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint, bundle = saved(qwen3(), tmp_path / "checkpoint"), tmp_path / "target.engine"
    target.main(["--checkpoint", str(checkpoint), "--out", str(bundle), "--no-parity"])
    decoder, prompt = Decoder(Target.open(bundle, Placement(threads=1))), [5, 9, 31]
    request = decoder.request(prompt, max_new_tokens=20)
    for _ in decoder.run(request):
        pass
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, len(prompt) :].tolist()
    assert request.tokens == expected[: len(request.tokens)]
    assert len(request.tokens) == len(expected)


def test_sharded_weights_are_the_same_weights(tmp_path: Path) -> None:
    one = Checkpoint.open(saved(qwen2(), tmp_path / "one"))
    many = Checkpoint.open(saved(qwen2(), tmp_path / "many", max_shard_size="40KB"))
    assert len(set(many.tensor_files.values())) > 2
    for name in one.tensor_files:
        np.testing.assert_array_equal(one.read(name), many.read(name))
    files = [write_weights(checkpoint, WeightSpec(checkpoint.spec, 64), tmp_path / "w") for checkpoint in (one, many)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "dynamic"),
        ({"rope_type": "yarn", "factor": 2.0}, "yarn"),
        ({"type": "longrope"}, "longrope"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}, "low_freq_factor"),
        ({"rope_type": "linear"}, "factor is None"),
        ("linear", "rope_scaling is 'linear'"),
    ],
)
def test_a_scaling_of_positions_that_is_not_known_is_refused(checkpoint: Any, rope: object, named: str) -> None:
    checkpoint.edit_json(rope_scaling=rope)
    with pytest.raises(CheckpointError, match=named):
        Checkpoint.open(checkpoint.directory)


@pytest.mark.parametrize("model_type", ["gemma2", "phi3", "mixtral", "deepseek_v3", None, ["llama"]])
def test_another_family_is_refused_by_name_with_those_that_are_read(checkpoint: Any, model_type: object) -> None:
    checkpoint.edit_json(model_type=model_type)
    with pytest.raises(CheckpointError, match=r"model_type is .*'llama' \(.*'mistral'.*'qwen2'.*'qwen3'"):
        Checkpoint.open(checkpoint.directory)


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "qwen2", "sliding_window": 64}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 64),
        ({"model_type": "llama", "sliding_window": 64}, None),
    ],
)
def test_how_far_attention_looks_back(checkpoint: Any, fields: dict[str, Any], window: int | None) -> None:
    checkpoint.edit_json(drop=("attention_bias",), **fields)
    assert Config.read(checkpoint.directory).window == window


def test_a_cache_longer_than_the_window_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(mistral(sliding_window=64), tmp_path / "checkpoint")
    with pytest.raises(OptionError, match=r"sliding window .* use at most 64"):
        target.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "t.engine"), "--max-length", "65"])
    target.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "t.engine"), "--no-parity"])
    assert Bundle.open(tmp_path / "t.engine").manifest.cache.max_length == 64


def test_linear_scaling_reaches_further_than_the_config_says(tmp_path: Path) -> None:
    checkpoint = saved(FORMS["llama, linear"](), tmp_path / "checkpoint")
    assert Config.read(checkpoint).max_length == 4 * 128


def test_a_cache_is_not_as_long_as_a_long_context_unless_asked(tmp_path: Path) -> None:
    checkpoint, out = saved(llama(max_position_embeddings=131072), tmp_path / "checkpoint"), tmp_path / "t.engine"
    target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    assert Bundle.open(out).manifest.cache.max_length == 4096


def test_a_bias_that_the_config_does_not_tell_of_is_refused(checkpoint: Any) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}
    checkpoint.edit_tensors(lambda tensors: tensors | bias)
    with pytest.raises(CheckpointError, match=r"q_proj\.bias, which is no part"):
        Checkpoint.open(checkpoint.directory)
