"""Rounding of weights, and what DequantizeLinear makes of it in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from export.precision import FP16, FP32
from export.quantize import quantize
from s2d_trt.errors import OptionError

formats = st.sampled_from(["int8", "int7", "int4"])
axes = st.sampled_from([0, 1])


def matrix(seed: int, inputs: int, outputs: int, input_axis: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((inputs, outputs)) * 10.0 ** rng.uniform(-3, 1, outputs)
    return (weights if input_axis == 0 else weights.T).astype(np.float32)


@given(st.integers(0, 99), formats, axes, st.sampled_from([32, 64, 192]), st.integers(1, 9))
def test_no_weight_moves_by_more_than_half_a_step_of_its_scale(seed, weight_format, axis, inputs, outputs):
    array = matrix(seed, inputs, outputs, axis)
    found = quantize(array, weight_format, axis, FP32)
    step = found.scales.repeat(found.block_size, axis=axis) if found.block_size else np.expand_dims(found.scales, axis)
    assert (np.abs(found.dequantized() - array) <= 0.5001 * step).all()


@given(st.integers(0, 99), formats, axes, st.sampled_from([32, 64, 192]), st.integers(2, 9))
def test_onnx_runtime_reads_back_the_same_numbers(seed, weight_format, axis, inputs, outputs):
    array = matrix(seed, inputs, 2 * outputs, axis)
    found = quantize(array, weight_format, axis, FP32)
    values = helper.make_tensor("values", found.onnx_type, array.shape, found.content().tobytes(), raw=True)
    scales = helper.make_tensor("scales", TensorProto.FLOAT, found.scales.shape, found.scales.tobytes(), raw=True)
    node = helper.make_node(
        "DequantizeLinear", ["values", "scales"], ["weights"], axis=found.axis, block_size=found.block_size
    )
    output = helper.make_tensor_value_info("weights", TensorProto.FLOAT, array.shape)
    graph = helper.make_graph([node], "weights", [], [output], [values, scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], found.dequantized())


@given(st.integers(0, 99), formats)
def test_a_matrix_and_its_transpose_are_rounded_alike(seed, weight_format):
    array = matrix(seed, 64, 6, 0)
    across = quantize(np.ascontiguousarray(array.T), weight_format, 1, FP16)
    np.testing.assert_array_equal(quantize(array, weight_format, 0, FP16).dequantized(), across.dequantized().T)


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_a_channel_of_zeros_stays_zero_and_its_scale_is_positive(weight_format):
    array = matrix(1, 64, 4, 0)
    array[:, 2] = 0
    found = quantize(array, weight_format, 0, FP16)
    assert (found.scales > 0).all()
    assert not found.dequantized()[:, 2].any()


def test_an_outlier_spoils_its_block_of_int4_and_no_other():
    array = np.full((128, 1), 0.1, np.float32)
    array[3] = 7.0
    found = quantize(array, "int4", 0, FP32).dequantized()
    assert found[5] == 0
    np.testing.assert_allclose(found[64:], 0.1, rtol=1e-6)


def test_a_width_that_no_block_divides_is_refused_with_the_remedy():
    with pytest.raises(OptionError, match="one has 48 inputs; use --weights int8"):
        quantize(np.ones((48, 4), np.float32), "int4", 0, FP16)
