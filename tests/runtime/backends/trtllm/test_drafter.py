"""The sorted draft as a drafter of the later versions."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.tensorrt_llm.drafter import ChainDrafts, make_drafter
from runtime.drafting.sorted_draft import SortedDraft
from s2d_trt.errors import OptionError
from tests.runtime.backends.trtllm.conftest import PROMPT, RECORD


def recorded_drafter(arguments: list[str]) -> type:
    """A base class whose constructor has these arguments."""
    source = f"def __init__(self, {', '.join(arguments)}): self.given = dict(locals())"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return type("Drafter", (), {"__init__": scope["__init__"]})


def with_drafter(monkeypatch: pytest.MonkeyPatch, base: type) -> None:
    module = ModuleType("drafter")
    module.Drafter = base  # type: ignore[attr-defined]
    names = RECORD["drafter"]["module"].split(".")
    for depth in range(1, len(names)):
        monkeypatch.setitem(sys.modules, ".".join(names[:depth]), ModuleType(names[depth - 1]))
    monkeypatch.setitem(sys.modules, ".".join(names), module)


@pytest.mark.parametrize("arguments", RECORD["drafter"]["constructors"])
def test_a_drafter_drafts_for_every_request_that_generates(
    draft: SortedDraft, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with_drafter(monkeypatch, recorded_drafter([f"{name}=None" for name in arguments]))
    drafter = make_drafter(draft, depth=3)
    assert (
        list(inspect.signature(type(drafter).prepare_draft_tokens).parameters)[1:]
        == (RECORD["drafter"]["prepare_draft_tokens"])
    )
    texts = {7: PROMPT, 9: [0, 5, 6]}
    requests = [
        SimpleNamespace(
            request_id=number,
            get_tokens=lambda beam, text=text: text,
            py_orig_prompt_len=len(text),
            py_max_new_tokens=20,
        )
        for number, text in texts.items()
    ]
    drafter.prepare_draft_tokens(SimpleNamespace(generation_requests=requests), None)
    for request in requests:
        assert request.py_draft_tokens == ChainDrafts(draft, 3).after(0, texts[request.request_id], 10)
        assert set(vars(request)) <= set(RECORD["drafter"]["request_members"])


def test_a_chain_is_as_long_as_was_asked_for(draft: SortedDraft) -> None:
    chains = ChainDrafts(draft, 3)
    assert [len(chains.after(0, PROMPT, most)) for most in (0, 1, 2, 10)] == [0, 1, 2, 3]


def test_a_drafter_of_unknown_arguments_is_refused(draft: SortedDraft, monkeypatch: pytest.MonkeyPatch) -> None:
    with_drafter(monkeypatch, recorded_drafter(["max_draft_len", "spec_config"]))
    with pytest.raises(OptionError, match="wants spec_config"):
        make_drafter(draft, depth=3)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), data=st.data())
def test_a_chain_does_not_depend_on_what_was_drafted_before(draft: SortedDraft, seed: int, data: st.DataObject) -> None:
    chains = ChainDrafts(draft, 4)
    rng = np.random.default_rng(seed)
    text = [0, *rng.integers(1, 300, 8).tolist()]
    for _ in range(data.draw(st.integers(1, 5))):
        drafted = chains.after(1, text, 100)
        fresh = ChainDrafts(draft, 4)
        assert drafted == fresh.after(1, text, 100)
        fresh.keep(set())
        right = data.draw(st.integers(0, len(drafted)))
        back = data.draw(st.integers(0, 3))
        text = [*text[: len(text) - back], *drafted[:right], int(rng.integers(1, 300))]
    chains.keep(set())
