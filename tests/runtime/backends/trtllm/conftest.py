"""TensorRT-LLM cannot be installed here: its interface is recorded in interface.json, and the library made of that.

An argument or a member that is not in the record fails, and the executor answers as a greedy target does, with a model
of ONNX Runtime behind it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.targets.target import Target

RECORD = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))
CONFIG: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {"vocab_size": 300, "mapping": {"world_size": 1}},
    "build_config": {
        "max_draft_len": 5,
        "max_input_len": 220,
        "max_seq_len": 256,
        "speculative_decoding_mode": 2,
        "kv_cache_type": "PAGED",
        "plugin_config": {"use_paged_context_fmha": True, "remove_input_padding": True},
    },
}


class Refused(Exception):  # noqa: N818
    """Something that the recorded interface does not have."""


def recorded_class(name: str, record: dict[str, Any]) -> type:
    """A class that takes what the record says, of the types that it says, and has no other members."""

    def check(self: Any, *values: Any, **arguments: Any) -> None:
        arguments = dict(zip(record["arguments"], values, strict=False)) | arguments
        for argument, value in arguments.items():
            if argument not in record["arguments"]:
                raise Refused(f"{name} takes no {argument}")
            kind = record["arguments"][argument]
            fits = type(value).__name__ == kind.rstrip("?") or (kind == "Path" and isinstance(value, Path))
            if not fits and not (value is None and kind.endswith("?")):
                raise Refused(f"{name}: {argument} is {type(value).__name__} where {kind} is taken")
        if missing := set(record["required"]) - set(arguments):
            raise Refused(f"{name} lacks {missing}")
        self.__dict__.update(arguments)

    return type(name, (), {"__init__": check})


class Members:
    """An object of which only recorded members can be read."""

    def __init__(self, name: str, **values: Any) -> None:
        self._name, self._values = name, values

    def __getattr__(self, member: str) -> Any:
        if member not in RECORD["classes"][self._name]["members"]:
            raise Refused(f"{self._name} has no {member}")
        return self._values[member]


class GreedyTarget:
    """Answers requests as the executor of an engine does: with the target's own tokens, from its whole answer."""

    def __init__(self, target: Target, more: int) -> None:
        self.target, self.more = target, more
        self.requests: list[Any] = []

    def answer(self, request: Any) -> list[int]:
        self.requests.append(request)
        text = list(request.input_token_ids)
        draft = request.external_draft_tokens_config
        sequence = self.target.lease()
        tokens: list[int] = []
        logits = sequence.prefill(text)
        # Past the first wrong token some versions stop and others go on: either is right.
        wrong = 0
        while len(tokens) < request.max_tokens:
            token = int(np.argmax(logits))
            matches = draft is not None and len(tokens) < len(draft.tokens) and draft.tokens[len(tokens)] == token
            tokens.append(token)
            wrong += not matches
            if wrong > self.more:
                break
            logits = sequence.prefill([token])
        self.target.release(sequence)
        return tokens


def library(answer: Any, ranks: int = 1, leads: bool = True, version: str = "1.2.1") -> ModuleType:
    """A module with the recorded part of the library."""
    module = ModuleType("tensorrt_llm")
    executor = SimpleNamespace()
    for name, record in RECORD["classes"].items():
        setattr(executor, name, recorded_class(name, record))
    for name, values in RECORD["enumerations"].items():
        kind = type(name, (), {})
        setattr(executor, name, type(name, (), {value: kind() for value in values}))
    results: dict[int, Any] = {}

    class Executor(executor.Executor):  # type: ignore[name-defined, misc]
        def enqueue_request(self, request: Any) -> int:
            results[len(results)] = answer(request)
            return len(results) - 1

        def await_responses(self, id: int, timeout: Any = None) -> list[Any]:  # noqa: A002
            found = results[id]
            if isinstance(found, str):
                return [Members("Response", has_error=lambda: True, error_msg=found)]
            result = Members("Result", is_final=True, output_token_ids=[found])
            return [Members("Response", has_error=lambda: False, result=result)]

        def can_enqueue_requests(self) -> bool:
            return leads

        def shutdown(self) -> None:
            self.__dict__["down"] = True

    executor.Executor = Executor
    module.__version__ = version  # type: ignore[attr-defined]
    module.__file__ = "/library/tensorrt_llm/__init__.py"
    module.bindings = SimpleNamespace(executor=executor)  # type: ignore[attr-defined]
    module.mpi_world_size = lambda: ranks  # type: ignore[attr-defined]
    return module


def changed(path: str, value: Any) -> dict[str, Any]:
    """The configuration with one entry changed; None removes it."""
    config = json.loads(json.dumps(CONFIG))
    *parents, last = path.split(".")
    owner = config
    for parent in parents:
        owner = owner[parent]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    return dict(config)


@pytest.fixture
def engine(tmp_path: Path, target_checkpoint: Path) -> Path:
    directory = tmp_path / "llama.engine"
    directory.mkdir()
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(target_checkpoint / name, directory)
    (directory / "rank0.engine").write_bytes(b"engine")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture
def oracle(target: Target) -> GreedyTarget:
    return GreedyTarget(target, more=0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, oracle: GreedyTarget) -> ModuleType:
    module = library(oracle.answer)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    return module


PROMPT = [0, *range(40, 60)]
