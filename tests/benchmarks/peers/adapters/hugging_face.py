"""transformers: ``generate`` alone, with an assistant model, by its own early exit, or with prompt lookup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()


def convert(job: dict[str, Any]) -> None:
    """The first ``layers`` layers of a checkpoint as a checkpoint of its own."""
    model = AutoModelForCausalLM.from_pretrained(job["source"])
    model.model.layers = model.model.layers[: job["layers"]]
    model.config.num_hidden_layers = job["layers"]
    model.save_pretrained(job["out"])


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """``draft``, ``early_exit`` and ``lookup`` are the ways to speculate; at most one of them."""
    torch.set_num_threads(mode["threads"])
    target = AutoModelForCausalLM.from_pretrained(mode["target"], dtype=torch.float32).eval()
    ways: dict[str, Any] = {}
    if mode.get("draft"):
        ways["assistant_model"] = AutoModelForCausalLM.from_pretrained(mode["draft"], dtype=torch.float32).eval()
    if mode.get("early_exit"):
        ways["assistant_early_exit"] = mode["early_exit"]
    if mode.get("lookup"):
        ways["prompt_lookup_num_tokens"] = mode["lookup"]

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        torch.manual_seed(seed)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            text = target.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, **sampling, **ways
            )
        return text[0, len(prompt) :].tolist(), {}

    return generate
