"""An ONNX graph under construction: nodes, inputs, outputs, and weights that stay in the shared file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.weights import WeightFile

OPSET = 24
IR_VERSION = 11

Dim = int | str
"""A fixed size, or the name of one that varies from call to call."""


class Graph:
    """An ONNX graph under construction; a tensor is known by its name."""

    def __init__(self, name: str, weights: WeightFile, weights_location: str) -> None:
        self.name = name
        self._weights = weights
        self._location = weights_location
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def input(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Declare a graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        """Declare a graph output, to be given as ``result`` of some node."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the shared weight file."""
        if name not in self._initializers:
            place = self._weights.tensors[name]
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=place.shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": self._location, "offset": str(place.offset), "length": str(place.length)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            self._initializers[name] = tensor
        return name

    def constant(self, name: str, values: Sequence[int]) -> str:
        """A small int64 vector, kept in the graph itself."""
        array = np.array(values, dtype=np.int64)
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def op(self, operator: str, *inputs: str, result: str | None = None, **attributes: object) -> str:
        """Add a node with one output; its name is ``result`` where given."""
        return self.ops(operator, *inputs, results=[result or f"{operator}_{len(self._nodes)}"], **attributes)[0]

    def ops(self, operator: str, *inputs: str, results: Sequence[str], **attributes: object) -> Sequence[str]:
        """Add a node with several outputs."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), list(results), name=name, **attributes))
        return results

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="s2d-trt"
        )
