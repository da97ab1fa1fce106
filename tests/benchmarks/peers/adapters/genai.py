"""onnxruntime-genai: alone, with a draft model, or with n-gram lookup in the text; alone also in batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def convert(job: dict[str, Any]) -> None:
    """Convert with its own model builder, whose default decides how embedding and head are quantised."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", job["source"], "-o", job["out"]]
    with tempfile.TemporaryDirectory() as scratch:
        command += ["-p", job["precision"], "-e", "cpu", "-c", scratch]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """``draft`` is another converted model, ``lookup`` the n-gram's size; ``width`` candidates a step."""
    model = _load(mode)

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + new_tokens, **_sampling(temperature, seed))
        if mode.get("lookup"):
            params.set_speculative_options(ngram_size=mode["lookup"], max_draft_tokens=mode["width"])
        elif mode.get("draft"):
            params.set_speculative_options(max_draft_tokens=mode["width"])
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        text = generator.get_sequence(0)
        figures: dict[str, float] = {}
        if mode.get("lookup") or mode.get("draft"):
            figures["acceptance"] = float(generator.get_speculative_stats()["acceptance_rate"])
        return [int(token) for token in text[len(prompt) :]], figures

    return generate


def open_batch(mode: dict[str, Any]) -> Callable[..., tuple[list[list[int]], dict[str, float]]]:
    """A static batch: prompts are padded to the longest, and all texts take as many steps as the longest answer.

    Continuous batching (``Engine`` with paged attention) needs CUDA, and speculative decoding takes one text.
    """
    model = _load(mode)
    config = json.loads((Path(mode["target"]) / "genai_config.json").read_text(encoding="utf-8"))["model"]
    ends = config["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]

    def generate(
        prompts: list[list[int]], new_tokens: int, temperature: float, seeds: list[int]
    ) -> tuple[list[list[int]], dict[str, float]]:
        longest = max(map(len, prompts))
        rows = np.full((len(prompts), longest), config["pad_token_id"], np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = prompt  # padded on the right: the library takes trailing pads for none of the text
        params = og.GeneratorParams(model)
        sampling = _sampling(temperature, seeds[0])
        params.set_search_options(max_length=longest + new_tokens, batch_size=len(prompts), **sampling)
        generator = og.Generator(model, params)
        generator.append_tokens(rows)
        while not generator.is_done():
            generator.generate_next_token()
        texts = [[int(token) for token in generator.get_sequence(row)[longest:]] for row in range(len(prompts))]
        return [_until(ends, text) for text in texts], {}

    return generate


def _until(ends: list[int], text: list[int]) -> list[int]:
    """The text with its end token and without the padding behind."""
    end = next((at for at, token in enumerate(text) if token in ends), len(text))
    return text[: end + 1]


def _sampling(temperature: float, seed: int) -> dict[str, Any]:
    if not temperature:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "random_seed": seed}


def _load(mode: dict[str, Any]) -> og.Model:
    with tempfile.TemporaryDirectory() as scratch:
        _compose(Path(scratch), mode)
        return og.Model(scratch)


def _compose(folder: Path, mode: dict[str, Any]) -> None:
    """Write a model directory of links, with a configuration that sets the threads and the draft's decoder."""
    target = Path(mode["target"])
    config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    for path in target.iterdir():
        if path.name != "genai_config.json":
            (folder / path.name).symlink_to(path.resolve())
    decoders = [decoder]
    if mode.get("draft"):
        draft = Path(mode["draft"])
        drafting = json.loads((draft / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
        drafting["filename"] = os.path.relpath(draft.resolve() / drafting["filename"], folder.resolve())
        config["model"]["draft"] = drafting
        config["speculative"] = {"max_draft_tokens": mode["width"]}
        decoders.append(drafting)
    for each in decoders:
        each.setdefault("session_options", {})["intra_op_num_threads"] = mode["threads"]
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
