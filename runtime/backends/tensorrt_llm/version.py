"""Which TensorRT-LLM is installed, and whether it can run an engine."""

from __future__ import annotations

import importlib
import re
from typing import Any

from s2d_trt.errors import OptionError

LAST_WITH_ENGINES = (1, 2)
"""Later versions run only PyTorch models."""


def import_library() -> tuple[Any, tuple[int, int]]:
    """The library and its version's first two numbers. Raises OptionError where it is not installed."""
    try:
        library = importlib.import_module("tensorrt_llm")
        version = str(library.__version__)
    except (ImportError, OSError, AttributeError) as cause:
        raise OptionError(
            f"TensorRT-LLM is not installed here ({cause}); install tensorrt-llm as NVIDIA's documentation says, the"
            " version that built the engine, or build the target with python -m export.target"
        ) from cause
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    return library, (major, minor)


def check_engine_version(built_by: str, installed: str) -> None:
    """Raise OptionError unless this version can load an engine that ``built_by`` built."""
    ours, theirs = (tuple(map(int, re.findall(r"\d+", version)[:2])) for version in (installed, built_by))
    if ours > LAST_WITH_ENGINES:
        raise OptionError(
            f"TensorRT-LLM {installed} runs no engines (1.2 is the last that does); install {built_by}, which built"
            " this one, or give its LLM class the sorted draft (runtime.backends.tensorrt_llm.drafter)"
        )
    if ours != theirs:
        raise OptionError(
            f"the engine was built by TensorRT-LLM {built_by}, and here is {installed}; install that version, or run"
            " trtllm-build again with this one"
        )
