"""Which values of a network are held in 8 bits on ONNX Runtime's CPU provider, and with which scale.

Operators that have 8-bit kernels there are quantised; the rest stays in fp32, and what they read and write is converted. Activations that
only limit a range (Relu, Clip) disappear into the scale of what is before them. docs/adr/0002-int8-on-the-cpu.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from hwnas.ir import Graph, Node

Range: TypeAlias = tuple[float, float]

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
COMPUTES = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "Concat", "Softmax"})
KEEPS_SCALE = frozenset({"MaxPool", "AveragePool", "Reshape", "Transpose", "Flatten", "Slice", "Split", "Gather", "Resize"})
LIMITS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scheme:
    """How a network is quantised.

    Attributes:
        graph: without the activations that are a matter of range: what wrote their input writes their output.
        ranged: every value that is held in 8 bits, with the value whose range gives its scale.
        weighted: names of the nodes whose weights and bias are quantised too.
    """

    graph: Graph
    ranged: Mapping[str, str]
    weighted: Set[str]


def scheme(graph: Graph, *, leave: Set[str] = frozenset()) -> Scheme:
    """What is quantised of a network.

    Args:
        graph: folded (`hwnas.ir.fold`), since a normalisation between two operators would stay in fp32; weights may be recipes.
        leave: names of nodes that stay in fp32.
    """
    marked = _Marking(graph, leave)
    for node in graph.nodes:
        marked.visit(node)
    nodes = tuple(marked.nodes.values())
    return Scheme(graph=replace(graph, nodes=nodes), ranged=marked.ranged, weighted=marked.weighted)


class _Marking:
    """Goes through a network once, in order, and marks what is quantised.

    Attributes:
        nodes: that remain, by the first value each writes.
        ranged: as in `Scheme`.
        weighted: as in `Scheme`.
    """

    def __init__(self, graph: Graph, leave: Set[str]) -> None:
        self.nodes: dict[str, Node] = {}
        self.ranged: dict[str, str] = {}
        self.weighted: set[str] = set()
        self._graph = graph
        self._leave = leave
        self._computed = graph.constants - set(graph.weights)

    def visit(self, node: Node) -> None:
        """Decides on one node."""
        data = node.inputs[0]
        if node.op in LIMITS and data in self.ranged and node.name not in self._leave and self._absorbed(node):
            return
        self.nodes[node.outputs[0]] = node
        if node.name in self._leave or not self._floats(node):
            return
        if node.op in WEIGHTED and self._quantises(node):
            if node.inputs[1] in self._graph.weights:
                self.weighted.add(node.name)
                self._mark(data, *node.outputs)
            else:
                self._mark(*node.inputs, *node.outputs)
        elif node.op in COMPUTES:
            self._mark(*node.inputs, *node.outputs)
        elif node.op in KEEPS_SCALE and data in self.ranged and self._keeps_scale(node):
            self.ranged.update(dict.fromkeys(node.outputs, self.ranged[data]))
        elif node.op in LIMITS and data in self.ranged:
            self._mark(*node.outputs)

    def _mark(self, *values: str) -> None:
        for value in values:
            self.ranged.setdefault(value, value)

    def _floats(self, node: Node) -> bool:
        """Whether a node reads one fp32 activation at least, no computed constant, and nothing of another type but indices."""
        specs = self._graph.input_specs(node)
        floats = specs[0].dtype == "float32" and (node.op == "Gather" or all(spec.dtype == "float32" for spec in specs))
        return floats and not self._graph.constants.issuperset(node.inputs) and self._computed.isdisjoint(node.inputs)

    def _absorbed(self, node: Node) -> bool:
        """Whether a limit becomes part of the scale of what nobody else reads; then the node before it writes its output."""
        data, graph = node.inputs[0], self._graph
        if data in graph.inputs or data in graph.outputs or len(graph.consumers[data]) > 1:
            return False
        first = data if data in self.nodes else next(first for first, node in self.nodes.items() if data in node.outputs)
        before = self.nodes.pop(first)
        writer = replace(before, outputs=tuple(node.outputs[0] if value == data else value for value in before.outputs))
        self.nodes[writer.outputs[0]] = writer
        del self.ranged[data]
        self._mark(node.outputs[0])
        return True

    def _quantises(self, node: Node) -> bool:
        """Whether the weights and the bias of a node have the form that 8-bit kernels take."""
        weights, data, other = self._graph.weights, node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if data in weights or (bias and bias not in weights):
            return False
        if node.op == "MatMul":
            return True
        if other not in weights:
            return False
        if node.op == "Gemm":
            columns = self._graph.specs[node.outputs[0]].shape[1]
            return bool(node.attr("alpha") == 1 and (not bias or self._graph.specs[bias].shape == (columns,)))
        return True

    @staticmethod
    def _keeps_scale(node: Node) -> bool:
        """Whether the operator has an 8-bit kernel with these attributes."""
        if node.op == "Resize":
            return bool(node.attr("mode") != "cubic")
        return node.op != "AveragePool" or set(node.ints("dilations")) == {1}
