"""Which values of a network are held in 8 bits on ONNX Runtime's CPU provider, and with which scale.

Operators that have 8-bit kernels there are quantised; the rest stays in fp32, and what they read and write is converted. Activations that
only limit a range (Relu, Clip) disappear into the scale of what is before them. docs/adr/0002-int8-on-the-cpu.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from hwnas.ir import Graph, Node
from hwnas.ir.onnx_quantised import WEIGHTED

Range: TypeAlias = tuple[float, float]

COMPUTES = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "Concat", "Softmax"})
POOLS = frozenset({"MaxPool", "AveragePool"})
KEEPS_SCALE = POOLS | {"Reshape", "Transpose", "Flatten", "Slice", "Split", "Gather", "Resize"}  # only where a neighbour is in 8 bits
LIMITS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scheme:
    """How a network is quantised.

    Attributes:
        graph: without the limits that are a matter of range.
        ranged: every value that is held in 8 bits, with the value whose range gives its scale.
        limited: those of them that are the outputs of limits whose input exists too; they are converted from that input.
        weighted: names of the nodes whose weights and bias are quantised too.
    """

    graph: Graph
    ranged: Mapping[str, str]
    limited: Mapping[str, str]
    weighted: Set[str]


def scheme(graph: Graph, *, leave: Set[str] = frozenset()) -> Scheme:
    """What is quantised of a network.

    Args:
        graph: folded (`hwnas.ir.fold`), since a normalisation between two operators would stay in fp32; weights may be recipes.
        leave: names of nodes that stay in fp32.
    """
    marking = _Marking(graph, leave)
    for node in graph.nodes:
        marking.visit(node)
    while sum(marking.spread(node) for node in marking.keeping):
        pass
    limits = {node.outputs[0]: node.inputs[0] for node in marking.nodes.values() if marking.is_conversion(node)}
    marking.leave_to(limits)
    nodes = tuple(node for value, node in marking.nodes.items() if value not in limits)
    return Scheme(graph=replace(graph, nodes=nodes), ranged=marking.ranged, limited=limits, weighted=marking.weighted)


class _Marking:
    """Marks what is quantised.

    Attributes:
        nodes: that remain, by the first value that each writes.
        keeping: those of them that hand values of one scale on, where both sides are in 8 bits.
        ranged: as in `Scheme`.
        weighted: as in `Scheme`.
    """

    def __init__(self, graph: Graph, leave: Set[str]) -> None:
        self.nodes: dict[str, Node] = {}
        self.keeping: list[Node] = []
        self.ranged: dict[str, str] = {}
        self.weighted: set[str] = set()
        self._graph = graph
        self._leave = leave
        self._computed = graph.constants - set(graph.weights)

    def visit(self, node: Node) -> None:
        """Decides on one node, in order."""
        data = node.inputs[0]
        if node.name not in self._leave and node.op in LIMITS and self._is_alone(data):
            self.nodes[node.outputs[0]] = replace(self.nodes.pop(data), outputs=node.outputs)
            self.ranged[node.outputs[0]] = node.outputs[0]
            del self.ranged[data]
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
        elif node.op in KEEPS_SCALE and self._keeps_scale(node):
            self.keeping.append(node)
            if node.op in POOLS:
                self._mark(data)

    def spread(self, node: Node) -> bool:
        """Puts what a node hands on in 8 bits where what it reads is, and the other way round; whether anything changed."""
        data = node.inputs[0]
        if data not in self.ranged and self.ranged.keys().isdisjoint(node.outputs):
            return False
        source = self.ranged.setdefault(data, data)
        if all(self.ranged.get(value) == source for value in node.outputs):
            return False
        self.ranged.update(dict.fromkeys(node.outputs, source))
        return True

    def is_conversion(self, node: Node) -> bool:
        """Whether the conversion of what a limit writes does its work: the range that converts does not reach beyond it, but for 0."""
        if node.op not in LIMITS or node.outputs[0] not in self.ranged or node.name in self._leave:
            return False
        return node.op == "Relu" or bool(node.attr("min") <= 0 <= node.attr("max"))

    def leave_to(self, limits: Mapping[str, str]) -> None:
        """Leaves to the conversion of a limit what is handed on to it alone: of two conversions in a row the runtime makes one."""
        handed = {value for node in self.keeping for value in node.outputs}
        for source in handed.intersection(limits.values()):
            if len(self._graph.consumers[source]) == 1 and source not in self._graph.outputs:
                self.ranged.pop(source, None)

    def _mark(self, *values: str) -> None:
        for value in values:
            self.ranged.setdefault(value, value)

    def _floats(self, node: Node) -> bool:
        """Whether a node reads one fp32 activation at least, no computed constant, and nothing of another type but indices."""
        specs = self._graph.input_specs(node)
        floats = specs[0].dtype == "float32" and (node.op == "Gather" or all(spec.dtype == "float32" for spec in specs))
        return floats and not self._graph.constants.issuperset(node.inputs) and self._computed.isdisjoint(node.inputs)

    def _is_alone(self, value: str) -> bool:
        """Whether an 8-bit operator writes a value for one reader only, so that a limit behind it can become part of its scale."""
        writer = self.nodes.get(value)
        computed = writer is not None and writer.op in WEIGHTED | COMPUTES and self.ranged.get(value) == value
        return computed and value not in self._graph.outputs and len(self._graph.consumers[value]) == 1

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
