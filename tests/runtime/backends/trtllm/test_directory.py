"""An engine directory is checked before anything is loaded; each message names the flag that mends the mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.tensorrt_llm.directory import EngineDirectory, is_engine_directory
from s2d_trt.errors import BundleError
from tests.runtime.backends.trtllm.conftest import changed


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("build_config.max_draft_len", 0, "--max_draft_len 8"),
        ("build_config.max_draft_len", None, "--max_draft_len 8"),
        ("build_config.speculative_decoding_mode", 1, "--speculative_decoding_mode draft_tokens_external"),
        ("build_config.plugin_config.use_paged_context_fmha", False, "--use_paged_context_fmha enable"),
        ("build_config.plugin_config.paged_kv_cache", False, "--kv_cache_type paged"),
        ("build_config.kv_cache_type", "CONTINUOUS", "--kv_cache_type paged"),
        ("build_config.plugin_config.remove_input_padding", False, "--remove_input_padding enable"),
        ("build_config.plugin_config.gpt_attention_plugin", "", "--gpt_attention_plugin auto"),
        ("build_config.max_seq_len", 6, "--max_seq_len"),
        ("build_config.max_input_len", 1, "--max_input_len"),
        ("build_config.max_input_len", None, "not that of a TensorRT-LLM engine"),
        ("pretrained_config.vocab_size", "many", "not that of a TensorRT-LLM engine"),
        ("pretrained_config.mapping.world_size", 3, "lacks rank1.engine, rank2.engine of the engines for its 3 GPUs"),
        ("pretrained_config.mapping.world_size", 10**30, "not that of a TensorRT-LLM engine"),
        ("build_config.max_seq_len", 10**30, "not that of a TensorRT-LLM engine"),
    ],
)
def test_an_engine_built_otherwise_is_refused_with_the_flag_that_mends_it(
    engine: Path, path: str, value: Any, remedy: str
) -> None:
    (engine / "config.json").write_text(json.dumps(changed(path, value)))
    with pytest.raises(BundleError) as caught:
        EngineDirectory.open(engine)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rank0.engine", "tokenizer.json", "generation_config.json"])
def test_a_file_that_is_missing_is_named(engine: Path, name: str) -> None:
    (engine / name).unlink()
    with pytest.raises(BundleError, match=name):
        EngineDirectory.open(engine)


def test_only_a_directory_whose_configuration_was_built_is_an_engine(engine: Path, target_bundle: Path) -> None:
    assert is_engine_directory(engine)
    assert not is_engine_directory(target_bundle)
    (engine / "config.json").write_text("{}")
    assert not is_engine_directory(engine)
    (engine / "config.json").write_text("no json")
    assert not is_engine_directory(engine)
