"""openvino-genai: alone, with a draft model, or with continuations looked up in the prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def convert(job: dict[str, Any]) -> None:
    """optimum-intel's exporter: weights in ``fp32``, ``int8`` or ``int4`` (its default groups)."""
    # Its wheel is built for another torch than the one installed, and language models do without.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig, OVWeightQuantizationConfig

    bits = {"int8": 8, "int4": 4}.get(job["precision"])
    # In int4 every linear layer takes part; by default a share would stay in int8.
    quantized = bits and OVWeightQuantizationConfig(
        bits=bits, **({"group_size": 128, "ratio": 1.0} if bits == 4 else {})
    )
    config = OVConfig(quantization_config=quantized) if quantized else OVConfig(dtype="fp32")
    task = "text-generation-with-past"
    # A pipeline with a draft compares the tokenizers of both.
    main_export(job["source"], job["out"], task=task, ov_config=config, stateful=True, convert_tokenizer=True)


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """``draft`` is another converted model with ``width`` candidates a step, ``lookup`` the longest n-gram."""
    import openvino as ov
    import openvino_genai

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": mode["threads"]}
    if mode["precision"] == "fp32":
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    properties = dict(settings)
    if mode.get("draft"):
        properties["draft_model"] = openvino_genai.draft_model(mode["draft"], "CPU", **settings)
    if mode.get("lookup"):
        properties["prompt_lookup"] = True
    pipeline = openvino_genai.LLMPipeline(mode["target"], "CPU", **properties)

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        config = pipeline.get_generation_config()
        config.max_new_tokens = new_tokens
        config.do_sample = temperature > 0
        if temperature:
            config.temperature, config.top_p, config.rng_seed = temperature, 1.0, seed
        if mode.get("draft") or mode.get("lookup"):
            config.num_assistant_tokens = mode["width"]
        if mode.get("lookup"):
            config.max_ngram_size = mode["lookup"]
        ids = np.array([prompt], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        return [int(token) for token in pipeline.generate(inputs, config).tokens[0]], {}

    return generate
