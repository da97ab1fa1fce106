"""The worker around an adapter: ``worker.py convert ADAPTER JOB`` once, or ``worker.py serve ADAPTER`` in JSON lines.

An adapter is a module beside this file. ``convert(job)`` makes ``job["out"]`` from ``job["source"]``.
``open_mode(mode)`` gives a function of ``prompt, new_tokens, temperature, seed``, which returns the new tokens and
figures of its own.

Requests are ``{"open": MODE}`` and that function's arguments. Each has one answer: ``{"error": "..."}``,
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
    """Answer requests until there are no more."""
    generate: Callable[..., tuple[list[int], dict[str, float]]] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                generate = None  # the old mode's memory goes before the new one's comes
                generate = adapter.open_mode(request["open"])
                answer: dict[str, Any] = {"opened": True}
            else:
                assert generate is not None, "no mode is open"
                started = time.perf_counter()
                tokens, figures = generate(**request)
                answer = {"tokens": tokens, "seconds": time.perf_counter() - started, "figures": figures}
        except Exception as error:  # whatever a library raises is an answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Libraries print what they like: it goes to stderr, and answers to what was stdout."""
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
