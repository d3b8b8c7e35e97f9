"""Which kernels ONNX Runtime made of a graph: its optimised graph, read back in terms of the graph that went in.

First the optimised graph that the rules of `ort_fusion` foretell is looked for in it (`ort_match`); where all of it is found, each node
is known. What follows is for a runtime with other rules.

The optimiser renames as it fuses, by rules that hold from version to version: a blocked (NCHWc) operator is called after the
value that it wrote when it was made, a re-ordered value keeps its name on the plain side, and an operator that stays keeps its
own name. What a blocked convolution absorbed later shows in its fourth input (a residual) and its attribute `activation`.
Where it replaces an operator by several nodes (the definition of a HardSwish, the reshapes around a Gemm that was a MatMul), they
write values that the graph does not know: together they are one kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.kernel import copied, make_call, members_of
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_fusion import plan
from hwnas.runtimes.ort_match import match

NCHWC_DOMAIN = "com.microsoft.nchwc"
SUFFIXES = {
    "_bn_nchwc": "BatchNormalization",
    "_mul_nchwc": "Mul",
    "_nchwc": "",
}  # what became a convolution of blocked data, longest first
RESIDUAL_INPUT = 3
SUMS = ("Add", "Sum")
REORDERS = ("ReorderInput", "ReorderOutput")
_TOKEN = re.compile(r"_token_\d+$")  # makes a name unique
RENAMED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}


def attribute(graph: Graph, optimized: Any, ran: Mapping[str, str], fusions: Fusions | int) -> Mapping[str, KernelCall]:
    """The kernels of an optimised model, each with the graph nodes that it computes.

    Args:
        graph: what was built.
        optimized: the `onnx.ModelProto` that ONNX Runtime wrote.
        ran: what its profiler calls each node, with the node's operator, in execution order.
        fusions: what it fuses, or the channels per block of its layout.

    Returns:
        For every name in `ran` its kernel; nodes that replace one operator share it.

    Raises:
        GraphError: a node of the optimised model cannot be traced back to the graph.
    """
    nodes = named(optimized, ran)
    found = match(plan(graph, fusions), nodes, [tensor.name for tensor in optimized.graph.initializer])
    if found.whole:
        return found.calls
    reading = _Reading(graph, f"nchwc{Fusions.of(fusions).block}")  # a runtime with rules that are not known here
    for name, node in nodes.items():
        reading.read(name, node)
    moves = {name: node for name, node in nodes.items() if node.op_type in REORDERS}
    stray = next((name for name in nodes if name not in reading.calls and name not in moves), None)
    if stray is not None:
        raise GraphError(f"ONNX Runtime's node '{stray}' ({nodes[stray].op_type}) does not correspond to a node of graph '{graph.name}'")
    for name, node in moves.items():
        reading.place(name, node, [reader for reader, other in nodes.items() if node.output[0] in other.input])
    return reading.calls


def named(optimized: Any, ran: Mapping[str, str]) -> dict[str, Any]:
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
        self._parts: dict[str, dict[str, str]] = {}  # a value that the graph does not know -> the nodes behind it, with their operators

    def read(self, name: str, node: Any) -> None:
        """Finds the kernel of a node; what writes a value that the graph does not know belongs to the kernel that reads it."""
        if node.op_type in REORDERS:
            self._holds[node.output[0]] = self._held(node.input[0])
            return
        parts = {name: str(node.op_type)}
        for behind in (self._parts.get(value, {}) for value in node.input):
            parts |= {part: op for part, op in behind.items() if part not in self.calls}
        value = self._written(node)
        if value is None:
            self._parts.update((output, parts) for output in node.output)
            return
        self._holds.update(zip(node.output, (value, *self._graph.producers[value].outputs[1:]), strict=False))
        call = self._make(node, value, set(parts.values()))
        self.calls.update(dict.fromkeys(parts, call))

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

    def _make(self, node: Any, value: str, ops: set[str]) -> KernelCall:
        """The kernel that writes a graph's value, from all that leads there and belongs to no other; what is repeated adds to the first."""
        members = members_of(self._graph, value, set(self._computed_by))
        if not members:
            return self._computed_by[self._graph.producers[value].name]
        work = ops - {"Reshape"} or ops
        op = work.pop() if len(work) == 1 else members[0].op  # one of several nodes names none of them
        op = next((made for suffix, made in SUFFIXES.items() if node.name.endswith(suffix)), "") or RENAMED.get(op, op)
        if op == "Reshape" and all(member.op != op for member in members):
            op = members[0].op
        layout = self._blocked if node.domain == NCHWC_DOMAIN else "nchw"
        call = make_call(self._graph, members, op=op, layout=layout)
        self._computed_by.update((member.name, call) for member in members)
        return call

    def _written(self, node: Any) -> str | None:
        """The graph's value that a node writes, activation and residual that it absorbed included; None inside a definition."""
        for suffix in SUFFIXES:
            if node.name.endswith(suffix) and (made := str(node.name.removesuffix(suffix))) in self._graph.producers:
                return self._absorbed_later(node, made)
        if node.output[0] in self._graph.producers:
            return str(node.output[0])
        original = self._namesake(node.name) or self._namesake(node.output[0])
        if original is not None and node.op_type in ("FusedGemm", "Gemm") and original.op == "MatMul":
            original = next((reader for reader in self._readers(original.outputs[0]) if reader.op == "Add"), original)
        if original is None and node.op_type == "Mul" and any(value in self._parts for value in node.input):
            # the end of a HardSwish; of blocked data, since its output has lost its name
            readers = (reader for value in node.input for reader in self._readers(self._held(value)))
            original = next((reader for reader in readers if reader.op == "HardSwish" and reader.name not in self._computed_by), None)
        return original.outputs[0] if original else None

    def _namesake(self, name: str) -> Node | None:
        """The node after which a fusion, or what a moved node writes, is called: `<node>/<what it is>`, `<node>_token_<number>`."""
        name = _TOKEN.sub("", name)
        while name not in self._by_name and "/" in name:
            name = name.rpartition("/")[0]
        return self._by_name.get(name)

    def _absorbed_later(self, node: Any, value: str) -> str:
        """What a blocked node writes in the end, from what it wrote when it was made."""
        graph = self._graph
        activation = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"), "")
        residual = len(node.input) > RESIDUAL_INPUT and bool(node.input[RESIDUAL_INPUT])
        for ops, absorbed in ((SUMS, residual), ((activation,), bool(activation))):
            if absorbed and graph.producers[value].op not in ops:
                value = next((reader.outputs[0] for reader in self._readers(value) if reader.op in ops), value)
        return value

    def _readers(self, value: str) -> Iterator[Node]:
        """The nodes that read a value, through copies of it."""
        for reader in self._graph.consumers.get(value, ()):
            if reader.op == "Identity":
                yield from self._readers(reader.outputs[0])
            else:
                yield reader
