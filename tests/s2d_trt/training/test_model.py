"""The trained model and its exits."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import Exits, new_model

SPEC = ModelSpec.llama(hidden=16, layers=4, heads=2, kv_heads=1, ffn=24, vocab=300, tied=True)
IDS = torch.arange(24).reshape(2, 12)


def test_the_last_exit_is_the_model_itself(vocabulary: Vocabulary) -> None:
    model = new_model(SPEC, 16, (2, 4), 0, vocabulary).eval()
    with torch.no_grad():
        shallow, deep = Exits(model, (2, 4))(IDS)
        assert torch.equal(deep, model(input_ids=IDS, use_cache=False).logits)
    assert shallow.shape == deep.shape == (2, 12, 300)
    assert not torch.equal(shallow, deep)


def test_a_shallow_exit_is_the_model_cut_off_there(vocabulary: Vocabulary) -> None:
    model = new_model(SPEC, 16, (2, 4), 0, vocabulary).eval()
    with torch.no_grad():
        exits = Exits(model, (2, 4))
        shallow = exits(IDS)[0]
        exits.close()
        model.model.layers = model.model.layers[:2]
        assert torch.equal(shallow, model(input_ids=IDS, use_cache=False).logits)


def test_closing_takes_every_hook_off(vocabulary: Vocabulary) -> None:
    model = new_model(SPEC, 16, (2, 4), 0, vocabulary)
    exits = Exits(model, (2, 4))
    assert sum(len(layer._forward_hooks) for layer in model.model.layers) == 2
    exits.close()
    assert sum(len(layer._forward_hooks) for layer in model.model.layers) == 0


def test_nothing_is_kept_between_calls(vocabulary: Vocabulary) -> None:
    model = new_model(SPEC, 16, (2, 4), 0, vocabulary)
    exits, outputs = Exits(model, (2, 4)), []
    model.model.layers[1].register_forward_hook(lambda _module, _inputs, output: outputs.append(weakref.ref(output)))
    with torch.no_grad():
        exits(IDS)
    assert [output() for output in outputs] == [None]


def test_the_seed_decides_the_weights(vocabulary: Vocabulary) -> None:
    first, again, other = (new_model(SPEC, 16, (4,), seed, vocabulary).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_compiled_layers_share_one_graph_and_can_be_hooked_again(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    model = new_model(SPEC, 16, (2, 4), 0, vocabulary).eval()
    with torch.no_grad():
        plain = Exits(model, (2, 4))
        expected = plain(IDS)
        plain.compile_layers()
        assert all(torch.equal(a, b) for a, b in zip(plain(IDS), expected, strict=True))
        plain.close()
        # An evaluation hooks the same, already compiled model, also at other layers.
        again = Exits(model, (1, 2, 4))(IDS)
    assert torch.equal(again[1], expected[0])
    assert torch.equal(again[2], expected[1])
    assert len(graphs) == 1


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (16, 1), (4, 3)])
def test_sizes_that_do_not_divide_are_refused(heads: int, kv_heads: int) -> None:
    with pytest.raises(OptionError, match="heads"):
        ModelSpec.llama(hidden=16, layers=1, heads=heads, kv_heads=kv_heads, ffn=8, vocab=8, tied=True)
