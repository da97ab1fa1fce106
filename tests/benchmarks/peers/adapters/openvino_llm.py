"""openvino-genai: alone, with a draft model, or with n-gram lookup in the prompt; one text or a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def convert(job: dict[str, Any]) -> None:
    """Export with optimum-intel in fp32, then compress the weights with NNCF for ``int8`` and ``int4``."""
    # torchvision's wheel is built for another torch, and language models do not need it.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    # A pipeline with a draft compares both models' tokenizers, so both must be converted.
    config = OVConfig(dtype="fp32")
    task = "text-generation-with-past"
    main_export(job["source"], job["out"], task=task, ov_config=config, stateful=True, convert_tokenizer=True)
    if job["precision"] == "fp32":
        return
    import nncf
    import openvino as ov

    path = Path(job["out"]) / "openvino_model.xml"
    before = path.with_suffix(".bin").stat().st_size
    modes = {"int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM}}
    modes["int4"] = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": job["group_size"], "ratio": 1.0}
    model = nncf.compress_weights(ov.Core().read_model(path), **modes[job["precision"]])
    scratch = path.with_name("compressed.xml")
    ov.save_model(model, scratch, compress_to_fp16=False)
    del model  # it has the old weights mapped
    for suffix in (".bin", ".xml"):
        scratch.with_suffix(suffix).replace(path.with_suffix(suffix))
    share = path.with_suffix(".bin").stat().st_size / before
    if share > 0.35:
        raise RuntimeError(f"weights still take {share:.0%} of fp32's bytes: they were not quantised")


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


def open_batch(mode: dict[str, Any]) -> Callable[..., tuple[list[list[int]], dict[str, float]]]:
    """Continuous batching, alone or with ``draft``; all texts are submitted together.

    The scheduler has its defaults: a cache that grows, prompts cut into chunks beside decoding, no reuse of prefixes.
    Arithmetic is fp32 with int8 weights too, since bf16, the default where the processor has AMX, is slower here at
    decoding; the cache then keeps its default of 8 bits.
    """
    import openvino as ov
    import openvino_genai

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": mode["threads"], "INFERENCE_PRECISION_HINT": "f32"}
    if mode["precision"] == "fp32":
        settings["KV_CACHE_PRECISION"] = "f32"
    properties = dict(settings)
    if mode.get("draft"):
        properties["draft_model"] = openvino_genai.draft_model(mode["draft"], "CPU", **settings)
    scheduler = openvino_genai.SchedulerConfig()
    pipeline = openvino_genai.ContinuousBatchingPipeline(mode["target"], scheduler, "CPU", properties)

    def generate(
        prompts: list[list[int]], new_tokens: int, temperature: float, seeds: list[int]
    ) -> tuple[list[list[int]], dict[str, float]]:
        configs = []
        for seed in seeds:
            config = pipeline.get_config()
            config.max_new_tokens, config.do_sample = new_tokens, temperature > 0
            if temperature:
                config.temperature, config.top_p, config.rng_seed = temperature, 1.0, seed
            if mode.get("draft"):
                config.num_assistant_tokens = mode["width"]
            configs.append(config)
        tensors = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(tensors, configs)
        return [[int(token) for token in result.m_generation_ids[0]] for result in results], {}

    return generate
