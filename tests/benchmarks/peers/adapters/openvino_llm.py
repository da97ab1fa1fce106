"""openvino-genai: alone, with a draft model, or with continuations looked up in the prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def convert(job: dict[str, Any]) -> None:
    """optimum-intel's exporter in fp32, then NNCF's compression of the weights for ``int8`` and ``int4``."""
    # Its wheel is built for another torch than the one installed, and language models do without.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    # A pipeline with a draft compares the tokenizers of both.
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
