"""Where the library is installed, the recorded interface is compared with it."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.runtime.backends.trtllm.conftest import RECORD


def test_the_record_is_the_librarys() -> None:
    trtllm = pytest.importorskip(
        "tensorrt_llm.bindings.executor", reason="tensorrt_llm is not installed", exc_type=ImportError
    )
    for name, record in RECORD["classes"].items():
        documented = getattr(trtllm, name).__init__.__doc__ or ""
        assert [argument for argument in record["arguments"] if argument not in documented] == [], name
        assert [member for member in record["members"] if not hasattr(getattr(trtllm, name), member)] == [], name
    for name, values in RECORD["enumerations"].items():
        assert [value for value in values if not hasattr(getattr(trtllm, name), value)] == [], name
    for path, arguments in RECORD["methods"].items():
        owner, method = path.split(".")
        documented = getattr(getattr(trtllm, owner), method).__doc__ or ""
        assert [argument for argument in arguments if argument not in documented] == [], path


def test_the_recorded_drafter_is_the_librarys() -> None:
    module = pytest.importorskip(
        RECORD["drafter"]["module"], reason="tensorrt_llm is not installed", exc_type=ImportError
    )
    drafter = importlib.import_module(module.__name__).Drafter
    expected = RECORD["drafter"]["prepare_draft_tokens"]
    assert list(inspect.signature(drafter.prepare_draft_tokens).parameters)[1:] == expected
    given_names = list(inspect.signature(drafter.__init__).parameters)[1:]
    assert given_names in RECORD["drafter"]["constructors"]
