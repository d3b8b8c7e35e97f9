"""An optimised model without the conversions between float types that were put into it, so that it reads like the graph in fp32.

A model in fp16 (`trt_precision.write`) has a Cast wherever a type changes, and ONNX Runtime adds its own around operators that have no
kernel in fp16. What they convert is a value of the graph under another name. Each belongs to the kernel that reads it first, else to the
one that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.errors import GraphError
from hwnas.ir import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

INSERTED = "InsertedPrecisionFreeCast_"  # before the name of a value, and of a node called after one, that ONNX Runtime converts


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A model whose values have the graph's names.

    Attributes:
        model: without conversions; its constants are names alone.
        stays: for each node of the model that computes, its name before.
        serves: for each conversion, by its name before, the node of the model to which it belongs.
    """

    model: ModelProto
    stays: Mapping[str, str]
    serves: Mapping[str, str]


def without_casts(graph: Graph, optimized: ModelProto) -> Plain:
    """Takes the conversions that the graph does not have out of an optimised model of it, each of whose nodes has a name.

    Raises:
        GraphError: nothing but conversions read and write a value.
    """
    from onnx import ModelProto, TensorProto

    casts = {node.name: node for node in optimized.graph.node if node.op_type == "Cast" and node.name not in graph.positions}
    same = _Same(graph)
    for cast in casts.values():
        same.join(cast.input[0], cast.output[0])
    plain = ModelProto()
    plain.graph.initializer.extend(TensorProto(name=same.name(tensor.name)) for tensor in optimized.graph.initializer)
    stays: dict[str, str] = {}
    readers: dict[str, str] = {}
    writers: dict[str, str] = {}
    for node in optimized.graph.node:
        if node.name in casts:
            continue
        copy = plain.graph.node.add()
        copy.CopyFrom(node)
        copy.name = node.name.removeprefix(INSERTED)
        copy.input[:] = map(same.name, node.input)
        copy.output[:] = map(same.name, node.output)
        stays[copy.name] = node.name
        for value in copy.input:
            readers.setdefault(value, copy.name)
        writers.update(dict.fromkeys(copy.output, copy.name))
    serves = {}
    for name, cast in casts.items():
        value = same.name(cast.input[0])
        owner = readers.get(value) or writers.get(value)
        if owner is None:
            raise GraphError(f"ONNX Runtime's node '{name}' (Cast) does not correspond to a node of graph '{graph.name}'")
        serves[name] = owner
    return Plain(model=plain, stays=stays, serves=serves)


class _Same:
    """Values that hold the same numbers in other types, under one name: the graph's, where it has one."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._above: dict[str, str] = {}

    def name(self, value: str) -> str:
        value = value.removeprefix(INSERTED)
        while value in self._above:
            value = self._above[value]
        return value

    def join(self, one: str, other: str) -> None:
        first, second = self.name(one), self.name(other)
        if second in self._graph.specs:
            first, second = second, first
        if first != second:
            self._above[second] = first
