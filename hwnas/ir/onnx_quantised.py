"""Networks in 8 bits as the networks in floats that they stand for: QuantizeLinear and DequantizeLinear taken out of an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import onnx
from onnx import numpy_helper

from hwnas.errors import GraphError
from hwnas.ir.node import Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
UINT8 = onnx.TensorProto.UINT8
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})  # whose second input is quantised as weights


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether values of a model are held in 8 bits between QuantizeLinear and DequantizeLinear."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node)


def in_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network that a model in Q/DQ form computes but for rounding: constants as floats, the rest without Q and DQ.

    Limits that the form expresses by the range of its integers, such as a Relu that was left out, stay left out.

    Args:
        model: with its external data loaded; is left as it is.

    Raises:
        GraphError: names the node that converts what is neither a constant nor was quantised in the model, or in blocks, or values other
            than weights to signed integers, of which runtimes do not make the same kernels.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants.update(
        (node.output[0], attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    source: dict[str, str] = {}  # what a value is but for rounding
    made: list[onnx.TensorProto] = []
    for node in graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in constants:
            made.append(numpy_helper.from_array(_floats(node, constants), node.output[0]))
        elif node.op_type == QUANTIZE and (zero := constants.get(node.input[2] if len(node.input) > 2 else "")) and zero.data_type != UINT8:
            raise GraphError(f"node '{node.name}' ({QUANTIZE}): values other than weights are read in uint8 only; give the network in fp32")
        elif node.op_type == QUANTIZE or (node.op_type == DEQUANTIZE and node.input[0] in source):
            source[node.output[0]] = source.get(node.input[0], node.input[0])
        elif node.op_type == DEQUANTIZE:
            raise GraphError(f"node '{node.name}' ({DEQUANTIZE}): '{node.input[0]}' enters in integers; give the network in fp32")
    ends = {source[output.name]: output.name for output in graph.output if output.name in source}  # the network's outputs keep their names
    entering = {value.name for value in graph.input}
    if clash := sorted(ends.keys() & entering):
        raise GraphError(f"output '{ends[clash[0]]}' is input '{clash[0]}' but for rounding; there is nothing between them")

    def renamed(value: str) -> str:
        plain = source.get(value, value)
        named: str = ends.get(plain, plain)
        return named

    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.initializer[:], found.graph.value_info[:]
    for node in graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            continue
        copy = found.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [renamed(value) for value in node.input]
        copy.output[:] = [renamed(value) for value in node.output]
    read = {value for node in found.graph.node for value in node.input} | {output.name for output in graph.output}
    found.graph.initializer.extend(tensor for tensor in (*graph.initializer, *made) if tensor.name in read)
    return found


def left_in_floats(model: onnx.ModelProto) -> Set[str]:
    """Names of the nodes of a model in Q/DQ form that compute in floats: that read nothing from 8 bits, or weights that never were."""
    made = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTIZE}
    constants = {tensor.name for tensor in model.graph.initializer}
    return frozenset(
        node.name
        for node in model.graph.node
        if node.op_type not in (QUANTIZE, DEQUANTIZE)
        and (made.isdisjoint(node.input) or (node.op_type in WEIGHTED and not constants.isdisjoint(node.input[1:2])))
    )


def _floats(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Array:
    """The constant that a DequantizeLinear makes, by ONNX's definition of it."""
    if any(name not in constants for name in node.input if name):
        raise GraphError(f"node '{node.name}' ({DEQUANTIZE}): its scale is no constant; give the network in fp32")
    values, scale, *rest = (numpy_helper.to_array(constants[name]) for name in node.input if name)
    zero = rest[0] if rest else np.zeros(scale.shape, values.dtype)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim > 1 or (scale.ndim == 1 and values.ndim and scale.size not in (1, values.shape[axis])):
        raise GraphError(f"node '{node.name}' ({DEQUANTIZE}): is quantised in blocks, which is not supported; give the network in fp32")
    if scale.size > 1:
        along = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(along), zero.reshape(along)
    found: Array = ((values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)).astype(scale.dtype)
    return found
