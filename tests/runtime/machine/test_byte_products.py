"""Whether ONNX Runtime sums products of bytes without overflow is computed, and sessions of int8 bundles follow it."""

from __future__ import annotations

from importlib import resources

import numpy as np
import onnxruntime as ort
import pytest

from runtime.backends.cpu import session
from runtime.machine import byte_products


def built() -> bytes:
    """The graph that the package ships."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.resize(np.array([127, 127, -128, 127, -128], np.int8), byte_products.SHAPE)
    constants = {"weights": weights, "zero_point": np.array(128, np.uint8)}
    depth, width = byte_products.SHAPE
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights", "zero_point"], ["products"])],
        "byte_products",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, ["q", depth])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, ["q", width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def test_the_shipped_graph_is_the_one_built_here() -> None:
    assert resources.files("runtime.machine").joinpath("byte_products.onnx").read_bytes() == built()


def test_the_options_of_an_int8_bundle_give_exact_products_on_this_processor() -> None:
    assert byte_products.products_are_exact(session.session_options(1, int8=True))


def test_int8_weights_become_unsigned_where_products_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(int8: bool) -> str:
        return session.session_options(1, int8).get_session_config_entry(session.UNSIGNED_WEIGHTS)

    for overflow, expected in ((False, "0"), (True, "1")):
        monkeypatch.setattr(session, "byte_products_overflow", lambda overflow=overflow: overflow)
        assert entry(int8=True) == expected
        assert entry(int8=False) == "0"


def test_a_result_that_overflowed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession.run
    monkeypatch.setattr(ort.InferenceSession, "run", lambda *arguments: [real(*arguments)[0] - 1])
    assert not byte_products.products_are_exact(ort.SessionOptions())
