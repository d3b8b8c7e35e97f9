"""Writes graphs as ONNX models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from hwnas import __version__
from hwnas.errors import GraphError
from hwnas.ir.graph import Graph
from hwnas.ir.node import Array, Node, TensorSpec
from hwnas.ir.onnx_forms import MAX_INLINE_BYTES, OPSETS, REDUCTIONS, SINCE, SLOTS, TENSOR, slot_array, to_element_type
from hwnas.ir.ops import OPS


def needed_opset(graph: Graph) -> int:
    """The oldest opset (17 or later) that has every operator of the graph."""
    return max((_since(node) for node in graph.nodes), default=OPSETS[0])


def to_model(graph: Graph, *, opset: int | None = None) -> onnx.ModelProto:
    """The graph as an ONNX model with the same node and value names.

    Args:
        graph: its weights must have values.
        opset: 17 to 21; by default the oldest one that has every operator of the graph.

    Raises:
        GraphError: when a weight has no values, or the opset is too old for a node; names it.
    """
    if opset is None:
        opset = needed_opset(graph)
    if opset not in OPSETS:
        raise GraphError(f"opset {opset} is not written; use {OPSETS[0]} to {OPSETS[-1]}")
    constants = {name: _tensor(name, value) for name, value in _weights(graph).items()}
    nodes = [_node(graph, node, opset, constants) for node in graph.nodes]
    proto = helper.make_graph(
        nodes,
        graph.name,
        [_value_info(name, spec) for name, spec in graph.inputs.items()],
        [_value_info(name, graph.specs[name]) for name in graph.outputs],
    )
    imports = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(imports)
    model = helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="hwnas", producer_version=__version__)
    model.graph.initializer.extend(constants.values())  # last, for what is given to a message is copied
    return model


def to_bytes(graph: Graph, *, opset: int | None = None) -> bytes:
    """The graph as the bytes of an ONNX file.

    Raises:
        GraphError: as `to_model`, and for weights that do not fit into one protobuf message.
    """
    size = _size(graph)
    if size > MAX_INLINE_BYTES:
        raise GraphError(f"graph '{graph.name}': {size} bytes of weights do not fit into one ONNX message; save it with external data")
    return bytes(to_model(graph, opset=opset).SerializeToString())


def save(graph: Graph, path: str | Path, *, opset: int | None = None, external_data: bool | None = None) -> Path:
    """Writes the graph to an ONNX file.

    Args:
        graph: its weights must have values.
        path: of the file; external data goes beside it, into `<name>.data`.
        opset: as for `to_model`.
        external_data: whether weights get a file of their own; by default only where they do not fit into the model.

    Returns:
        The path of the model.
    """
    path = Path(path)
    model = to_model(graph, opset=opset)
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx appends to a file that exists
    if external_data if external_data is not None else _size(graph) > MAX_INLINE_BYTES:
        onnx.save_model(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data.name, size_threshold=0)
    else:
        path.write_bytes(model.SerializeToString())
    return path


def _used(graph: Graph) -> list[str]:
    return [name for name in graph.weights if name in graph.consumers or name in graph.outputs]


def _size(graph: Graph) -> int:
    return sum(graph.specs[name].nbytes for name in _used(graph))


def _weights(graph: Graph) -> dict[str, Array]:
    values = {}
    for name in _used(graph):
        value = graph.weights[name].value
        if value is None:
            raise GraphError(f"weight '{name}' of graph '{graph.name}' has no values yet; call graph.materialize(rng) first")
        values[name] = value
    return values


def _tensor(name: str, value: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def _value_info(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, to_element_type(spec.dtype), spec.shape)


def _since(node: Node) -> int:
    if node.op == "Pad" and node.attr("mode") == "wrap":
        return 19
    if node.op == "Resize" and node.attr("coordinate_transformation_mode") == "half_pixel_symmetric":
        return 19
    if node.op == "AveragePool" and any(dilation != 1 for dilation in node.ints("dilations")):
        return 19
    return SINCE.get(node.op, OPSETS[0])


def _node(graph: Graph, node: Node, opset: int, constants: dict[str, onnx.TensorProto]) -> onnx.NodeProto:
    if opset < (since := _since(node)):
        raise GraphError(f"node '{node.name}' ({node.op}) needs opset {since}; {opset} was asked for")
    attrs = _written(node, opset)
    inputs = list(node.inputs)
    slots = () if node.op in REDUCTIONS and node.op != "ReduceSum" and opset < 18 else SLOTS.get(node.op, ())
    for position, slot in enumerate(slots, start=1):
        if slot != TENSOR:
            inputs.insert(position, _constant(graph, node, slot, attrs.pop(slot), constants) if slot in attrs else "")
    while inputs and not inputs[-1]:
        inputs.pop()
    proto = helper.make_node(node.op, inputs, list(node.outputs), name=node.name)
    proto.attribute.extend(helper.make_attribute(key, value) for key, value in attrs.items())
    return proto


def _constant(graph: Graph, node: Node, slot: str, value: object, constants: dict[str, onnx.TensorProto]) -> str:
    name = f"{node.name}.{slot}"
    while name in graph.specs or name in constants:
        name += "_"
    constants[name] = _tensor(name, slot_array(node.op, slot, value, graph.input_specs(node)[0].dtype))
    return name


def _written(node: Node, opset: int) -> dict[str, Any]:
    """The attributes that a file states: all of them, but for those the opset does not know and limits that limit nothing."""
    attrs: dict[str, Any] = dict(node.attrs)
    if node.op == "Clip":
        defaults: Mapping[str, Any] = OPS["Clip"].defaults
        return {key: value for key, value in attrs.items() if value != defaults[key]}
    if node.op == "Cast":
        attrs["to"] = to_element_type(attrs["to"])
    if node.op == "AveragePool" and opset < 19:
        del attrs["dilations"]
    return attrs
