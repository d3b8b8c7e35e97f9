"""Which kernels ONNX Runtime made of a graph: its optimised graph, read back in terms of the graph that went in.

The optimiser renames as it fuses, by rules that hold from version to version: a blocked (NCHWc) operator is called after the
value that it wrote when it was made, a re-ordered value keeps its name on the plain side, and an operator that stays keeps its
own name. What a blocked convolution absorbed later shows in its fourth input (a residual) and its attribute `activation`.
An operator that has no kernel of its own is replaced by the nodes that define it, which have no names: together they are the
kernel of that operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.kernel import copied, make_call, members_of

NCHWC_DOMAIN = "com.microsoft.nchwc"
NCHWC_SUFFIX = "_nchwc"
NORM_SUFFIX = "_bn_nchwc"  # a batch normalisation of blocked data, which becomes a convolution
RESIDUAL_INPUT = 3
REORDERS = ("ReorderInput", "ReorderOutput")
RENAMED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
FUNCTIONS = frozenset({"GroupNormalization", "HardSwish", "Mish"})  # replaced by their definition
LAST = {"HardSwish": "Mul"}  # the end of a definition that may stay blocked, so that the value it writes has lost its name


def attribute(graph: Graph, optimized: Any, ran: Mapping[str, str], block: int) -> dict[str, KernelCall]:
    """The kernels of an optimised model, each with the graph nodes that it computes.

    Args:
        graph: what was built.
        optimized: the `onnx.ModelProto` that ONNX Runtime wrote.
        ran: what its profiler calls each node, with the node's operator, in execution order.
        block: channels per block of its blocked layout.

    Returns:
        For every name in `ran` its kernel; the nodes of a definition share one.

    Raises:
        GraphError: a node of the optimised model cannot be traced back to the graph.
    """
    nodes = _named(optimized, ran)
    reading = _Reading(graph, f"nchwc{block}")
    for name, node in nodes.items():
        reading.read(name, node)
    for name, node in nodes.items():
        if node.op_type in REORDERS:
            reading.place(name, node, [reader for reader, other in nodes.items() if node.output[0] in other.input])
    return reading.calls


def _named(optimized: Any, ran: Mapping[str, str]) -> dict[str, Any]:
    """The nodes of an optimised model by the profiler's names: it calls one that has no name by operator and number."""
    names = {node.name for node in optimized.graph.node}
    numbered = {name: op for name, op in ran.items() if name not in names}
    found = {}
    for node in optimized.graph.node:
        name = node.name or next((name for name, op in numbered.items() if op == node.op_type and name not in found), "")
        if name not in ran:
            raise GraphError(f"ONNX Runtime's profiler shows no run of node '{node.name}' ({node.op_type}) of its optimised graph")
        found[name] = node
    return found


class _Reading:
    """Reads an optimised model node by node.

    Attributes:
        calls: the kernel of every node read so far, by the profiler's name for it.
    """

    def __init__(self, graph: Graph, blocked: str) -> None:
        self.calls: dict[str, KernelCall] = {}
        self._graph = graph
        self._blocked = blocked
        self._by_name = {node.name: node for node in graph.nodes}
        self._position = {node.name: i for i, node in enumerate(graph.nodes)}
        self._computed_by: dict[str, KernelCall] = {}  # name of a graph node -> its kernel
        self._holds: dict[str, str] = {}  # a value of the optimised model -> the graph's value that it holds
        self._inside: dict[str, Node] = {}  # a value within a definition -> the graph node that is defined
        self._parts: list[str] = []  # read so far of the definition at hand

    def read(self, name: str, node: Any) -> None:
        """Finds the kernel of a node; re-orders wait for `place`."""
        if node.op_type in REORDERS:
            self._holds[node.output[0]] = self._held(node.input[0])
            return
        function = None if node.name else self._function(node)
        if node.name or (function is None and node.output[0] in self._graph.producers):
            op = "BatchNormalization" if node.name.endswith(NORM_SUFFIX) else RENAMED.get(node.op_type, node.op_type)
            value = self._holds[node.output[0]] = self._written(node)
            self.calls[name] = self._make(op, value, self._blocked if node.domain == NCHWC_DOMAIN else "nchw")
            return
        self._parts.append(name)
        if function is None:
            return
        named = node.output[0] in self._graph.producers
        if named or node.op_type == LAST.get(function.op):
            value = str(node.output[0]) if named else function.outputs[0]
            self._holds[node.output[0]] = value
            self.calls.update(dict.fromkeys(self._parts, self._make(function.op, value)))
            self._parts = []
        else:
            self._inside[node.output[0]] = function

    def place(self, name: str, node: Any, readers: Sequence[str]) -> None:
        """Attributes a re-order to the kernel that needs it, the first in the graph; one of an output to the kernel that wrote it."""
        value = copied(self._graph, self._held(node.input[0]))
        spec = self._graph.specs[value]
        causes = [self.calls[reader] for reader in readers] or [self._computed_by[self._graph.producers[value].name]]
        cause = min(causes, key=lambda call: min(self._position[member] for member in call.nodes))
        kernel = Kernel(op=node.op_type, inputs=(spec,), outputs=(spec,), layout=self._blocked)
        self.calls[name] = KernelCall(kernel=kernel, nodes=cause.nodes, output=value)

    def _held(self, value: str) -> str:
        return self._holds.get(value, value)

    def _make(self, op: str, value: str, layout: str = "nchw") -> KernelCall:
        """The kernel that writes a graph's value; its members are what leads there and belongs to no other."""
        members = members_of(self._graph, value, set(self._computed_by))
        if not members:
            raise GraphError(f"ONNX Runtime computes '{value}' of graph '{self._graph.name}' twice ({op}), which hwnas cannot attribute")
        call = make_call(self._graph, members, op=op, layout=layout)
        self._computed_by.update((member.name, call) for member in members)
        return call

    def _function(self, node: Any) -> Node | None:
        """The graph node to whose definition a node without a name belongs."""
        writer = self._graph.producers.get(copied(self._graph, node.output[0]))
        if writer is not None:
            return writer if writer.op in FUNCTIONS else None
        for value in node.input:
            if value in self._inside:
                return self._inside[value]
        for value in node.input:
            for reader in self._readers(self._held(value)):
                if reader.op in FUNCTIONS and reader.name not in self._computed_by:
                    return reader
        return None

    def _written(self, node: Any) -> str:
        """The graph's value that a node writes, activation and residual that it absorbed included."""
        graph = self._graph
        for suffix in (NORM_SUFFIX, NCHWC_SUFFIX):
            if node.name.endswith(suffix) and (made := str(node.name.removesuffix(suffix))) in graph.producers:
                return self._absorbed_later(node, made)
        if node.output[0] in graph.producers:
            return str(node.output[0])
        original = self._by_name.get(node.name) or self._by_name.get(node.name.split("/", 1)[0])
        if original is None:
            raise GraphError(f"ONNX Runtime's node '{node.name}' ({node.op_type}) does not correspond to a node of graph '{graph.name}'")
        return original.outputs[0]

    def _absorbed_later(self, node: Any, value: str) -> str:
        """What a blocked node writes in the end, from what it wrote when it was made."""
        graph = self._graph
        activation = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"), "")
        residual = len(node.input) > RESIDUAL_INPUT and bool(node.input[RESIDUAL_INPUT])
        for op, absorbed in (("Add", residual), (activation, bool(activation))):
            if absorbed and graph.producers[value].op != op:
                value = next((reader.outputs[0] for reader in self._readers(value) if reader.op == op), value)
        return value

    def _readers(self, value: str) -> Iterator[Node]:
        """The nodes that read a value, through copies of it."""
        for reader in self._graph.consumers.get(value, ()):
            if reader.op == "Identity":
                yield from self._readers(reader.outputs[0])
            else:
                yield reader
