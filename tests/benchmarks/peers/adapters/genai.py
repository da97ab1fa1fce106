"""onnxruntime-genai: alone, with a draft model, or with continuations looked up in the text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime_genai as og


def convert(job: dict[str, Any]) -> None:
    """Its own model builder; the vocabulary's weights stay as the builder chooses."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", job["source"], "-o", job["out"]]
    with tempfile.TemporaryDirectory() as scratch:
        command += ["-p", job["precision"], "-e", "cpu", "-c", scratch]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def open_mode(mode: dict[str, Any]) -> Callable[..., tuple[list[int], dict[str, float]]]:
    """``draft`` is another converted model, ``lookup`` the n-gram's size; ``width`` candidates a step."""
    with tempfile.TemporaryDirectory() as scratch:
        _compose(Path(scratch), mode)
        model = og.Model(scratch)

    def generate(
        prompt: list[int], new_tokens: int, temperature: float, seed: int
    ) -> tuple[list[int], dict[str, float]]:
        params = og.GeneratorParams(model)
        search: dict[str, Any] = {"max_length": len(prompt) + new_tokens, "do_sample": temperature > 0}
        if temperature:
            search |= {"temperature": temperature, "top_k": 0, "top_p": 1.0, "random_seed": seed}
        params.set_search_options(**search)
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


def _compose(folder: Path, mode: dict[str, Any]) -> None:
    """A model directory of links whose configuration has the threads, and the draft's decoder where there is one."""
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
