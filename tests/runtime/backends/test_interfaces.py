"""Every name and argument that the GPU backends use exists in the libraries themselves, none of which needs a GPU.

The calls are read from our source: what is called on ``context`` there must be a method of the real class, and take
so many arguments of such names.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime.backends.cuda import device, onnxruntime
from runtime.backends.tensorrt import backend as tensorrt
from runtime.backends.tensorrt import runtime_cache


class Use(NamedTuple):
    """An attribute that is read; where it is called, with how many arguments and which keywords."""

    receiver: str
    name: str
    arguments: tuple[int, tuple[str, ...]] | None


def uses(module: Any, receivers: set[str]) -> Iterator[Use]:
    """Attributes of ``receivers``, like ``context`` or ``self._engine``, that a module's source reads."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (receiver := ast.unparse(node.value)) in receivers:
            call = called.get(id(node))
            keywords = tuple(sorted(keyword.arg or "**" for keyword in call.keywords)) if call else ()
            starred = call is not None and any(isinstance(argument, ast.Starred) for argument in call.args)
            count = -1 if starred else len(call.args) if call else 0
            yield Use(receiver, node.attr, (count, keywords) if call else None)


def signatures(function: Any, name: str) -> list[tuple[list[str], list[str]]]:
    """Names of the required and of all arguments, a pair for each overload; read from the docstring if need be."""
    try:
        found = [inspect.signature(function)]
    except (TypeError, ValueError):
        found = []
    if found:
        parameters = [p for p in found[0].parameters.values() if p.name != "self"]
        required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL,)]
        names = ["*" if p.kind is p.VAR_POSITIONAL else p.name for p in parameters]
        return [(required, names)]
    pairs = []
    for text in re.findall(rf"\b{name}\((.*?)\)(?: ->|\n|$)", inspect.getdoc(function) or ""):
        if text == "*args, **kwargs":
            continue
        parts = re.split(r",\s*(?![^\[\(]*[\]\)])", text)
        parts = [part for part in parts if part and part.split(":")[0].strip() not in ("self", "*")]
        named = [(re.split(r"[:=]", part)[0].split()[-1], "=" in part) for part in parts]
        pairs.append(([each for each, optional in named if not optional], [each for each, _ in named]))
    return pairs


def takes(function: Any, use: Use) -> bool:
    """Whether some overload takes the arguments of a call."""
    assert use.arguments is not None
    count, keywords = use.arguments
    for required, names in signatures(function, use.name):
        variadic = any(name.startswith("*") for name in names)
        enough = count == -1 or count + len(keywords) >= len(required)
        few = count == -1 or variadic or count + len(keywords) <= len(names)
        if enough and few and set(keywords) <= set(names):
            return True
    return False


def problems(module: Any, receivers: dict[str, Any]) -> list[str]:
    found = []
    seen = set()
    for use in uses(module, set(receivers)):
        seen.add(use.receiver)
        owner = receivers[use.receiver]
        if not hasattr(owner, use.name):
            found.append(f"{owner} has no {use.name}")
            continue
        used = getattr(owner, use.name)
        if use.arguments and not inspect.isclass(used) and not takes(used, use):
            found.append(f"{owner}.{use.name} does not take {use.arguments}")
    assert seen == set(receivers), f"not used any more: {set(receivers) - seen}"
    return found


@pytest.mark.parametrize("flavor", ["tensorrt_rtx", "tensorrt"])
def test_tensorrt_has_what_the_backend_calls(flavor: str) -> None:
    trt = pytest.importorskip(flavor, reason=f"{flavor} is not installed", exc_type=ImportError)
    if not hasattr(trt, "Runtime"):
        pytest.skip(f"{flavor} is here without its libraries")
    rtx_only = {"CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "EngineValidity"}
    found = problems(
        tensorrt,
        {
            "trt": trt,
            "self._trt": trt,
            "self._engine": trt.ICudaEngine,
            "self._runtime": trt.Runtime,
            "config": trt.IRuntimeConfig,
            "context": trt.IExecutionContext,
            "runtime": trt.Runtime,
        },
    )
    if flavor == "tensorrt":
        found = [problem for problem in found if not any(name in problem for name in rtx_only)]
    assert not found


def test_the_runtime_cache_has_what_its_file_calls() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)
    assert not problems(runtime_cache, {"config": trt.IRuntimeConfig, "self._cache": trt.IRuntimeCache})


def test_cuda_core_has_what_the_device_calls() -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    driver = importlib.import_module("cuda.bindings.driver")
    graph = importlib.import_module("cuda.core.graph")
    receivers = {
        "cuda.core": core,
        "self._core": core,
        "self._driver": driver,
        "self._device": core.Device,
        "self._stream": core.Stream,
        "self._queue": graph.GraphBuilder,
        "self._pinned": core.LegacyPinnedMemoryResource,
        "buffer": core.Buffer,
        "builder": graph.GraphBuilder,
        "outer": graph.GraphBuilder,
        "body": graph.GraphBuilder,
        "condition": graph.GraphCondition,
        "graph": graph.Graph,
        "code": core.ObjectCode,
    }
    assert not problems(device, receivers)


def test_onnxruntime_has_what_the_cuda_backend_calls() -> None:
    ort = importlib.import_module("onnxruntime")
    receivers = {
        "ort": ort,
        "self._session": ort.InferenceSession,
        "io": ort.IOBinding,
        "self._options": ort.RunOptions,
    }
    assert not problems(onnxruntime, receivers)


def test_a_name_or_an_argument_that_is_not_there_is_found(tmp_path: Path) -> None:
    class Library:
        def method(self, first: int, second: int = 0) -> None: ...

    module = type(inspect)("imaginary")
    for line, expected in [
        ("context.method(1)", []),
        ("context.method(1, 2)", []),
        ("context.method(1, second=2)", []),
        ("context.method()", ["does not take (0, ())"]),
        ("context.method(1, 2, 3)", ["does not take (3, ())"]),
        ("context.method(1, third=3)", ["does not take (1, ('third',))"]),
        ("context.other(1)", ["has no other"]),
    ]:
        module.__file__ = str(tmp_path / "imaginary.py")
        Path(module.__file__).write_text(line + "\n", encoding="utf-8")
        found = problems(module, {"context": Library})
        assert [any(part in problem for problem in found) for part in expected] == [True] * len(expected), (line, found)
        assert len(found) == len(expected)
