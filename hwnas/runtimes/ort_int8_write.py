"""Writes a network in the Q/DQ form that ONNX Runtime's CPU kernels are fast on.

The same writer serves what is shipped, with ranges from calibration (`hwnas.export.quantize`), and what is profiled, with ranges that are
made up: an 8-bit kernel takes the same time whatever its scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import GraphError
from hwnas.ir import Graph, Node, Weight
from hwnas.ir.node import Array
from hwnas.ir.onnx import to_model
from hwnas.runtimes.ort_int8 import Range, Scheme

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

WEIGHT_LIMIT = 64  # 7 bits: without VNNI two products are added in 16 saturating bits
STEPS = 255  # of an unsigned activation
_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_BIAS_LIMIT = 2**31 - 1
_BIAS_MARGIN = 1.0001  # so that rounding does not push a bias out of its 32 bits
_MADE_UP_DEVIATIONS = 4  # between the largest weight of a channel and 0, where weights are drawn as integers


def made_up(graph: Graph, scheme: Scheme) -> dict[str, Range]:
    """Ranges for every value that needs one, no two alike: a network whose scales agree would be fused as no calibrated one is.

    Args:
        graph: what the scheme was made of.
        scheme: how it is quantised.
    """
    values = dict.fromkeys(scheme.ranged.values())
    return {value: _made_up(graph.producers.get(value), 1 + i / 1024) for i, value in enumerate(values)}


def _made_up(node: Node | None, size: float) -> Range:
    low, high = -2 * size, 2.5 * size
    if node is None:
        return low, high
    if node.op in ("Sigmoid", "HardSigmoid", "Softmax"):
        return 0.0, size / 2
    if node.op == "Clip":
        return max(low, node.attr("min")), min(high, node.attr("max"))
    return (0.0, high) if node.op == "Relu" else (low, high)


def write(scheme: Scheme, ranges: Mapping[str, Range], rng: np.random.Generator) -> ModelProto:
    """The network as an ONNX model with QuantizeLinear and DequantizeLinear around what is quantised.

    Args:
        scheme: how it is quantised.
        ranges: smallest and largest value of each activation that gives a scale; constants tell theirs themselves.
        rng: draws the weights that are recipes; those that are quantised directly as integers.

    Raises:
        GraphError: a range is missing or not finite; names the value.
    """
    return _Writer(scheme, ranges, rng).model()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """A scale and a zero point, with the names of their constants."""

    inputs: tuple[str, str]
    step: float
    zero: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A value that is held in 8 bits: what its node writes, what its readers read, and the nodes between the two."""

    raw: str
    back: str
    nodes: tuple[NodeProto, ...]


class _Writer:
    """Cuts a network at every conversion, writes the pieces, and joins them again by Q and DQ."""

    def __init__(self, scheme: Scheme, ranges: Mapping[str, Range], rng: np.random.Generator) -> None:
        self._scheme = scheme
        self._graph = scheme.graph
        self._fixed = {name: scheme.graph.weights[name].draw(rng) for name in scheme.ranged if name in scheme.graph.weights}
        self._ranges = {**ranges, **{name: (float(values.min()), float(values.max())) for name, values in self._fixed.items()}}
        self._rng = rng
        self._taken = set(scheme.graph.specs)
        self._constants: list[TensorProto] = []
        self._scales: dict[str, _Scale] = {}

    def model(self) -> ModelProto:
        """The whole of it."""
        held: dict[str, _Held] = {}
        for value in (*(value for value in self._scheme.ranged if value not in self._scheme.limited), *self._scheme.limited):
            held[value] = self._hold(value, held)
        behind: dict[str, list[str]] = {}  # value -> the conversions of it
        for value in held:
            behind.setdefault(self._scheme.limited.get(value, value), []).append(value)
        weighed: list[NodeProto] = []
        nodes = [self._cut(node, held, weighed) for node in self._graph.nodes]
        model = to_model(self._plain(nodes).materialize(self._rng))
        pieces = list(model.graph.node)
        del model.graph.node[:], model.graph.input[len(self._graph.inputs) :]
        model.graph.node.extend(weighed)

        def convert(value: str) -> None:
            for converted in behind.get(value, ()):
                model.graph.node.extend(held[converted].nodes)
                if converted != value:
                    convert(converted)

        for value in (*self._graph.inputs, *self._fixed):
            convert(value)
        for piece, node in zip(pieces, self._graph.nodes, strict=True):
            _without_dilations(piece)
            model.graph.node.append(piece)
            for value in node.outputs:
                convert(value)
        model.graph.initializer.extend(self._constants)
        return model

    def _cut(self, node: Node, held: Mapping[str, _Held], weighed: list[NodeProto]) -> Node:
        """A node that reads and writes the near sides of its values; appends what makes floats of its weights."""
        inputs = [held[value].back if value in held else value for value in node.inputs]
        attrs = node.attrs
        if node.name in self._scheme.weighted:
            inputs[1:] = self._weigh(node, weighed)
            attrs = tuple((key, 1.0 if key == "beta" else value) for key, value in attrs)  # the integer bias has it in
        outputs = tuple(held[value].raw if value in held else value for value in node.outputs)
        return replace(node, inputs=tuple(inputs), outputs=outputs, attrs=attrs)

    def _plain(self, nodes: Sequence[Node]) -> Graph:
        """The pieces as a graph whose inputs include what Q and DQ will write."""
        specs = dict(self._graph.specs)
        for cut, node in zip(nodes, self._graph.nodes, strict=True):
            pairs = (*zip(cut.inputs, node.inputs, strict=True), *zip(cut.outputs, node.outputs, strict=True))
            specs.update((new, self._graph.specs[old]) for new, old in pairs if old)
        reads = [value for node in nodes for value in node.inputs if value]
        written = {value for node in nodes for value in node.outputs}
        joints = {value: specs[value] for value in reads if value not in written and value not in self._graph.weights}
        return Graph.assemble(
            name=self._graph.name,
            inputs={**self._graph.inputs, **joints},
            outputs=self._graph.outputs,
            nodes=nodes,
            weights={name: weight for name, weight in self._graph.weights.items() if name in {*reads, *self._graph.outputs}},
            specs=specs,
        )

    def _hold(self, value: str, held: Mapping[str, _Held]) -> _Held:
        """The conversion of a value and back; one that is an output of the network keeps its name on the far side."""
        scale = self._scale(self._scheme.ranged[value])
        bits = self._fresh(f"{value}_quantized")
        if value in self._fixed:
            back = self._fresh(f"{value}_dequantized")
            values = np.clip(np.rint(self._fixed[value] / np.float32(scale.step)) + scale.zero, 0, STEPS)
            self._constant(bits, values.astype(np.uint8))
            return _Held(raw=value, back=back, nodes=(self._node("DequantizeLinear", value, (bits, *scale.inputs), back),))
        ends = value in self._graph.outputs and value not in self._graph.inputs
        raw, back = (self._fresh(f"{value}_raw"), value) if ends else (value, self._fresh(f"{value}_dequantized"))
        if value in self._scheme.limited:
            source = self._scheme.limited[value]
            raw = held[source].back if source in held else source
        nodes = [self._node("QuantizeLinear", value, (raw, *scale.inputs), bits)]
        if ends or value in self._graph.consumers or value in self._scheme.limited.values():
            nodes.append(self._node("DequantizeLinear", value, (bits, *scale.inputs), back))
        return _Held(raw=raw, back=back, nodes=tuple(nodes))

    def _scale(self, source: str) -> _Scale:
        """Scale and zero point of the range of a value; 0 is always exact."""
        if source not in self._scales:
            if source not in self._ranges:
                raise GraphError(f"value '{source}' of graph '{self._graph.name}' has no range; calibrate it first")
            low, high = self._ranges[source]
            if not (isfinite(low) and isfinite(high)):
                raise GraphError(f"graph '{self._graph.name}' cannot be quantised: value '{source}' is not finite ({low:g} to {high:g})")
            low, high = min(low, 0.0), max(high, 0.0)
            step = (high - low) / STEPS
            step, zero = (step, round(-low / step)) if step >= _LEAST_SCALE else (1.0, 0)
            inputs = (self._fresh(f"{source}_scale"), self._fresh(f"{source}_zero_point"))
            self._constant(inputs[0], np.array(step, np.float32))
            self._constant(inputs[1], np.array(zero, np.uint8))
            self._scales[source] = _Scale(inputs=inputs, step=step, zero=zero)
        return self._scales[source]

    def _weigh(self, node: Node, weighed: list[NodeProto]) -> list[str]:
        """The weights of a node, and its bias, as integers; returns the names of the floats that are made of them."""
        step = self._scale(self._scheme.ranged[node.inputs[0]]).step
        weight = self._graph.weights[node.inputs[1]]
        bias = self._graph.weights[node.inputs[2]].draw(self._rng).astype(np.float64) if len(node.inputs) > 2 and node.inputs[2] else None
        if bias is not None and node.op == "Gemm":
            bias = bias * node.attr("beta")
        axis = _output_axis(node, weight)
        integers, scales = self._integers(weight, axis, 0.0 if bias is None else np.abs(bias) * (_BIAS_MARGIN / _BIAS_LIMIT / step))
        parts = [("weight", integers, scales.astype(np.float32), axis)]
        if bias is not None:
            bias_scales = np.float32(step) * scales.astype(np.float32)
            rounded = np.clip(np.rint(bias / bias_scales), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
            parts.append(("bias", rounded, bias_scales, 0))
        names = []
        for part, values, scale, along in parts:
            stem = f"{node.name}_{part}"
            inputs = [self._fresh(f"{stem}_quantized"), self._fresh(f"{stem}_scale"), self._fresh(f"{stem}_zero_point")]
            for name, value in zip(inputs, (values, scale, np.zeros(scale.shape, values.dtype)), strict=True):
                self._constant(name, value)
            names.append(self._fresh(f"{stem}_dequantized"))
            weighed.append(self._node("DequantizeLinear", stem, inputs, names[-1], **({} if along is None else {"axis": along})))
        return names

    def _integers(self, weight: Weight, axis: int | None, least: Any) -> tuple[Array, Array]:
        """Weights as signed integers with a scale for each output channel, at least `least`; a recipe is drawn as integers."""
        shape = weight.spec.shape
        if weight.value is None:
            integers: Array = (np.frombuffer(self._rng.bytes(weight.spec.numel), np.int8) // 2).reshape(shape)
            scales = np.full([] if axis is None else shape[axis], _MADE_UP_DEVIATIONS * np.sqrt(2 * shape[0] / weight.spec.numel))
            return integers, np.maximum(scales / WEIGHT_LIMIT, least)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scales = np.maximum(np.abs(weight.value).max(axis=others).astype(np.float64) / WEIGHT_LIMIT, least)
        scales = np.where(scales < _LEAST_SCALE, 1.0, scales)
        along = scales.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.clip(np.rint(weight.value / along), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scales

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _constant(self, name: str, value: Array) -> None:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(value, name))

    @staticmethod
    def _node(op: str, stem: str, inputs: Sequence[str], output: str, **attrs: int) -> NodeProto:
        from onnx import helper

        return helper.make_node(op, list(inputs), [output], name=f"{stem}_{op}", **attrs)


def _without_dilations(node: NodeProto) -> None:
    """Drops an attribute of average pools that later opsets have and ONNX Runtime's 8-bit kernel refuses, even where it says nothing."""
    if node.op_type == "AveragePool":
        for attribute in [attribute for attribute in node.attribute if attribute.name == "dilations" and set(attribute.ints) == {1}]:
            node.attribute.remove(attribute)


def _output_axis(node: Node, weight: Weight) -> int | None:
    """The axis of a node's weights along which its output channels lie; None for a stack of matrices."""
    if node.op == "Conv":
        return 0
    if len(weight.spec.shape) != 2:
        return None
    return 0 if node.op == "Gemm" and node.attr("transB") else 1
