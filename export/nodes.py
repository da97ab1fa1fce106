"""An ONNX graph under construction: nodes, inputs, outputs, and weights that stay in the shared file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision import Precision
from export.weights import TensorLocation, WeightFile

OPSET = 24
IR_VERSION = 11

Dim = int | str
"""A fixed size, or the name of one that varies from call to call."""


class Graph:
    """An ONNX graph under construction; a tensor is known by its name."""

    def __init__(self, name: str, weights: WeightFile, weights_location: str, precision: Precision) -> None:
        self.name, self.precision = name, precision
        self._weights = weights
        self._location = weights_location
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._described: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._values: dict[str, str] = {}

    def input(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Declare a graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Declare a graph output; a node computes it by taking its name as ``result``."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def describe(self, value: str, shape: Sequence[Dim]) -> None:
        """State the shape of a value of this graph's precision, where a session would take seconds to infer it."""
        self._described.append(helper.make_tensor_value_info(value, self.precision.onnx_type, list(shape)))

    def weight(self, name: str) -> str:
        """A tensor of the shared weight file, converted to this graph's precision."""
        if name not in self._values:
            place = self._weights.tensors[name]
            self._store(name, place)
            if (form := place.quantization) is not None:
                scale = self.weight(form.scale)
                attributes = {"axis": form.axis, "block_size": form.block_size}
                self._values[name] = self.op("DequantizeLinear", name, scale, result=None, **attributes)
            else:
                self._values[name] = self.cast(name, place.onnx_type, self.precision.onnx_type)
        return self._values[name]

    def integer_weight(self, name: str) -> tuple[str, str]:
        """An int8 matrix of the shared weight file, unconverted, and the scales of its columns."""
        place = self._weights.tensors[name]
        assert place.quantization is not None
        self._store(name, place)
        return name, self.weight(place.quantization.scale)

    def stored(self, name: str) -> str:
        """A tensor of the shared weight file, unconverted."""
        self._store(name, self._weights.tensors[name])
        return name

    def _store(self, name: str, place: TensorLocation) -> None:
        tensor = TensorProto(name=name, data_type=place.onnx_type, dims=place.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": self._location, "offset": str(place.offset), "length": str(place.length)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        self._initializers[name] = tensor

    def cast(self, value: str, source: int, target: int) -> str:
        """``value`` of ONNX type ``source`` as ``target``: itself where they are the same."""
        return value if source == target else self.op("Cast", value, to=target)

    def constant(self, name: str, values: Sequence[int] | int, dtype: type[np.integer[Any]] = np.int64) -> str:
        """A few whole numbers, or one, kept in the graph itself."""
        array = np.array(values, dtype=dtype)
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """One number in this graph's precision, kept in the graph itself."""
        array = np.array(value, dtype=self.precision.dtype)
        content = helper.make_tensor(name, self.precision.onnx_type, (), array.tobytes(), raw=True)
        self._initializers.setdefault(name, content)
        return name

    def op(self, operator: str, *inputs: str, result: str | None = None, **attributes: object) -> str:
        """Add a node with one output; its name is ``result`` where given."""
        return self.ops(operator, *inputs, results=[result or f"{operator}_{len(self._nodes)}"], **attributes)[0]

    def ops(self, operator: str, *inputs: str, results: Sequence[str], **attributes: object) -> Sequence[str]:
        """Add a node with several outputs."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), list(results), name=name, **attributes))
        return results

    def once(self, key: str, make: Callable[[], str]) -> str:
        """The value of ``make``, which is called the first time that ``key`` is asked for."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]

    def split(self, value: str, widths: Sequence[int]) -> Sequence[str]:
        """``value`` cut along its last axis."""
        results = [f"{value}_{index}" for index in range(len(widths))]
        sizes = self.constant("x".join(map(str, widths)), widths)
        return self.ops("Split", value, sizes, results=results, axis=-1)

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            list(self._initializers.values()),
            value_info=self._described,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="s2d-trt"
        )
