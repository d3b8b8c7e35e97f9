"""Writes the precision of every operator into an ONNX model, in the form that TensorRT keeps: Cast for fp16, Q/DQ for int8.

A strongly typed engine computes in the types that the model states, and nothing else sets a precision from TensorRT 11 on. Its int8 is
symmetric: zero points are 0, weights have a scale per output channel, and the bias stays a float. The form that ONNX Runtime's CPU
kernels want differs in all three (`hwnas.runtimes.ort_int8_write`); the ranges that calibration finds serve both.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwnas.errors import GraphError
from hwnas.ir import Graph, Node
from hwnas.ir.node import Array
from hwnas.ir.onnx import needed_opset, to_model
from hwnas.runtimes.ort_int8 import Range

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Base = Literal["fp32", "fp16"]
Ranges = Mapping[str, Range]

OPSET = 19  # the first whose QuantizeLinear takes fp16
STEPS = 127  # on either side of 0
LARGEST = float(np.finfo(np.float16).max) / 4  # data that calibration did not see may go beyond what it saw
_DTYPES: Mapping[Base, str] = {"fp32": "float32", "fp16": "float16"}
_SUFFIX: Mapping[str, str] = {"float32": "_fp32", "float16": "_fp16"}
FIXED = frozenset({"Cast", "BatchNormalization", "Celu", "IsInf"})
"""Stay in fp32: a Cast says itself what it writes, small variances vanish in fp16, and of the others ONNX has no fp16 at `OPSET`."""
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Precisions:
    """In which precision each operator computes.

    Attributes:
        base: of all that is not named below; also what products in int8 read and write.
        int8: names of the nodes whose data and weights are quantised.
        fp32: names of the nodes that stay in fp32 although the base is fp16.
    """

    base: Base = "fp32"
    int8: Set[str] = frozenset()
    fp32: Set[str] = frozenset()

    def of(self, node: Node) -> str:
        """The precision in which a node computes."""
        return "int8" if node.name in self.int8 else "fp32" if self._stays(node) else self.base

    def floats(self, node: Node) -> str:
        """The float type that a node reads and writes."""
        return "float32" if self._stays(node) else _DTYPES[self.base]

    def _stays(self, node: Node) -> bool:
        return node.op in FIXED or node.name in self.fp32


def quantisable(graph: Graph) -> tuple[str, ...]:
    """The nodes that TensorRT computes in int8 when their operands are quantised: products of an activation with weights.

    Args:
        graph: folded (`hwnas.ir.fold`).
    """
    return tuple(node.name for node in graph.nodes if node.op in _PRODUCTS and _has_weights(graph, node))


def _has_weights(graph: Graph, node: Node) -> bool:
    data, weight = node.inputs[0], node.inputs[1]
    if weight not in graph.weights or data in graph.constants or graph.specs[data].dtype != "float32":
        return False
    if node.op == "MatMul":
        return len(graph.specs[weight].shape) == 2
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    return (not bias or bias in graph.weights) and (node.op != "Gemm" or (node.attr("alpha") == 1 and not node.attr("transA")))


def too_large(graph: Graph, ranges: Ranges) -> frozenset[str]:
    """The nodes that read or write values which fp16 does not hold.

    Args:
        graph: the network.
        ranges: of its values; those of weights are found here.
    """
    beyond = {value for value, (low, high) in ranges.items() if max(-low, high) > LARGEST}
    for name, weight in graph.weights.items():
        if weight.value is not None and weight.spec.dtype == "float32" and np.abs(weight.value).max(initial=0.0) > LARGEST:
            beyond.add(name)
    return frozenset(node.name for node in graph.nodes if beyond.intersection((*node.inputs, *node.outputs)))


def activations(graph: Graph) -> tuple[str, ...]:
    """The float values of a network that depend on its inputs."""
    values = (*graph.inputs, *(value for node in graph.nodes for value in node.outputs))
    return tuple(value for value in values if graph.specs[value].dtype == "float32" and value not in graph.constants)


def write(graph: Graph, precisions: Precisions, ranges: Ranges) -> ModelProto:
    """The network as an ONNX model that states these precisions. What it reads and writes at its ends stays fp32.

    Args:
        graph: folded, with the values of its weights.
        precisions: of its nodes.
        ranges: smallest and largest value of each activation that is quantised.

    Raises:
        GraphError: a range is missing or not finite; names the value.
    """
    opset = needed_opset(graph) if precisions == Precisions() else max(OPSET, needed_opset(graph))
    return _Writer(graph, precisions, ranges, to_model(graph, opset=opset)).model()


class _Writer:
    """Rewrites a model node by node; keeps under which names each value exists, by type."""

    def __init__(self, graph: Graph, precisions: Precisions, ranges: Ranges, model: ModelProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._precisions = precisions
        self._ranges = ranges
        self._model = model
        self._constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._taken = {*graph.specs, *self._constants}
        self._nodes: list[NodeProto] = []
        self._held: dict[tuple[str, str], str] = {(value, graph.specs[value].dtype): value for value in graph.inputs}
        self._quantised: dict[tuple[str, str], str] = {}

    def model(self) -> ModelProto:
        """The whole of it."""
        from onnx import numpy_helper

        protos = list(self._model.graph.node)
        for proto, node in zip(protos, self._graph.nodes, strict=True):
            self._rewrite(proto, node)
        for value in self._graph.outputs:
            if value in self._graph.producers and self._graph.specs[value].dtype == "float32":
                self._as(value, "float32")
        used = {name for node in self._nodes for name in node.input} | set(self._graph.outputs)
        del self._model.graph.node[:], self._model.graph.initializer[:]
        self._model.graph.node.extend(self._nodes)
        self._model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self._constants.items() if name in used
        )
        return self._model

    def _rewrite(self, proto: NodeProto, node: Node) -> None:
        floats = self._precisions.floats(node)
        inputs = list(proto.input)
        for i, name in enumerate(inputs):
            if not name or (node.op == "Resize" and i > 0) or node.op == "Cast":
                inputs[i] = self._any(name) if name else name
            else:
                inputs[i] = self._as(name, floats)
        if node.name in self._precisions.int8:
            inputs[0] = self._quantise(node.inputs[0], floats)
            inputs[1] = self._weigh(node, floats)
        elif (skipped := self._skip(node)) is not None:
            inputs[skipped] = self._quantise(node.inputs[skipped], floats)
        del proto.input[:]
        proto.input.extend(inputs)
        for i, value in enumerate(node.outputs):
            dtype = floats if self._graph.specs[value].dtype == "float32" else self._graph.specs[value].dtype
            narrow = dtype == "float16" and value in self._graph.outputs
            proto.output[i] = self._held[value, dtype] = self._fresh(value + _SUFFIX[dtype]) if narrow else value
        self._nodes.append(proto)

    def _any(self, name: str) -> str:
        """A value in whatever type it exists."""
        return next((held for (value, _), held in self._held.items() if value == name), name)

    def _as(self, name: str, dtype: str) -> str:
        """A value in a float type; the name itself where it is no float."""
        if name in self._constants:
            return self._constant_as(name, dtype)
        if self._graph.specs[name].dtype != "float32":
            return name
        if (name, dtype) not in self._held:
            from onnx import TensorProto, helper

            ends = dtype == "float32" and name in self._graph.outputs
            cast = name if ends else self._fresh(name + _SUFFIX[dtype])
            to = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
            self._nodes.append(helper.make_node("Cast", [self._any(name)], [cast], name=self._fresh(f"{cast}_cast"), to=to))
            self._held[name, dtype] = cast
        return self._held[name, dtype]

    def _constant_as(self, name: str, dtype: str) -> str:
        value = self._constants[name]
        if value.dtype != np.float32 or dtype == "float32":
            return name
        if (name, dtype) not in self._held:
            self._held[name, dtype] = self._constant(name + _SUFFIX[dtype], value.astype(np.float16))
        return self._held[name, dtype]

    def _quantise(self, value: str, floats: str) -> str:
        """A value that went through 8 bits, in a float type."""
        if (value, floats) not in self._quantised:
            scale = np.array(self._step(value), floats)
            source = self._as(value, floats)
            self._quantised[value, floats] = self._pair(f"{value}{_SUFFIX[floats]}", source, np.maximum(scale, _least(floats)))
        return self._quantised[value, floats]

    def _step(self, value: str) -> float:
        if value not in self._ranges:
            raise GraphError(f"value '{value}' of graph '{self._graph.name}' has no range; calibrate it first")
        low, high = self._ranges[value]
        if not (isfinite(low) and isfinite(high)):
            raise GraphError(f"graph '{self._graph.name}' cannot be quantised: value '{value}' is not finite ({low:g} to {high:g})")
        return max(-low, high) / STEPS or 1.0

    def _weigh(self, node: Node, floats: str) -> str:
        """The weights of a product that went through 8 bits with a scale for each output channel."""
        values = self._constants[node.inputs[1]]
        axis = 0 if node.op == "Conv" or (node.op == "Gemm" and node.attr("transB")) else 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = (np.abs(values).max(axis=others) / STEPS).astype(floats)
        return self._pair(
            f"{node.name}_weight", self._constant_as(node.inputs[1], floats), np.maximum(scale, _least(floats)).astype(floats), axis
        )

    def _pair(self, stem: str, source: str, scale: Array, axis: int | None = None) -> str:
        """Q and DQ of a value; `axis` is that of the channels where each has a scale."""
        from onnx import helper

        scales = [self._constant(f"{stem}_scale", scale), self._constant(f"{stem}_zero_point", np.zeros(scale.shape, np.int8))]
        bits, back = self._fresh(f"{stem}_quantized"), self._fresh(f"{stem}_dequantized")
        attrs = {} if axis is None else {"axis": axis}
        self._nodes.append(helper.make_node("QuantizeLinear", [source, *scales], [bits], name=f"{stem}_QuantizeLinear", **attrs))
        self._nodes.append(helper.make_node("DequantizeLinear", [bits, *scales], [back], name=f"{stem}_DequantizeLinear", **attrs))
        return back

    def _skip(self, node: Node) -> int | None:
        """Which input of an Add is the residual that a product in int8 could add in place, if it comes in 8 bits as well."""
        if node.op != "Add" or node.name in self._precisions.fp32:
            return None
        sides = [
            value not in self._graph.constants and self._graph.specs[value] == self._graph.specs[node.outputs[0]] for value in node.inputs
        ]
        if not all(sides) or node.inputs[0] == node.inputs[1]:
            return None
        products = [i for i, value in enumerate(node.inputs) if self._ends_product(value)]
        return 1 - products[0] if products else None

    def _ends_product(self, value: str) -> bool:
        writer = self._graph.producers.get(value)
        alone = len(self._graph.consumers[value]) == 1 and value not in self._graph.outputs
        return alone and writer is not None and writer.name in self._precisions.int8

    def _constant(self, name: str, value: Array) -> str:
        name = self._fresh(name)
        self._constants[name] = value
        return name

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _least(floats: str) -> Array:
    """The smallest scale that a type holds in full precision."""
    return np.array(np.finfo(floats).tiny, floats)


def counts(graph: Graph, precisions: Precisions) -> dict[str, int]:
    """How many nodes compute in each precision."""
    found = [precisions.of(node) for node in graph.nodes]
    return {name: found.count(name) for name in ("int8", "fp16", "fp32") if name in found}
