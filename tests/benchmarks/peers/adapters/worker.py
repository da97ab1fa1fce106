"""Runs an adapter: ``worker.py convert ADAPTER JOB`` converts once, ``worker.py serve ADAPTER`` reads JSON lines.

It runs with the interpreter of a library's virtual environment, where this project is not installed. An adapter is a
module in this folder. ``convert(job)`` writes the directory ``job["out"]`` from ``job["source"]``. ``open_mode(mode)``
returns a function of ``prompt, new_tokens, temperature, seed`` that returns the new tokens and a dict of figures.
``open_batch(mode)``, for modes with ``texts``, returns a function of ``prompts, new_tokens, temperature, seeds`` that
answers all prompts at once and returns a list of new tokens for each, and the figures.

A request is ``{"open": MODE}`` or the function's arguments. Each has one answer: ``{"error": "..."}``,
``{"opened": true}``, or ``{"tokens": [...], "seconds": s, "figures": {...}}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def serve(adapter: Any, answers: TextIO) -> None:
    """Answer requests until stdin ends."""
    generate: Callable[..., tuple[list[Any], dict[str, float]]] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                generate = None  # frees the old model before the new one is loaded
                mode = request["open"]
                generate = adapter.open_batch(mode) if "texts" in mode else adapter.open_mode(mode)
                answer: dict[str, Any] = {"opened": True}
            else:
                assert generate is not None, "no mode is open"
                started = time.perf_counter()
                tokens, figures = generate(**request)
                answer = {"tokens": tokens, "seconds": time.perf_counter() - started, "figures": figures}
        except Exception as error:  # any failure of a library is reported as an answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Run the action; whatever libraries print goes to stderr, so that stdout holds answers only."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    action, name, *job = sys.argv[1:]
    adapter = importlib.import_module(name)
    if action == "convert":
        adapter.convert(json.loads(job[0]))
    else:
        serve(adapter, answers)


if __name__ == "__main__":
    main()
