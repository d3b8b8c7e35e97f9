"""Which kernels ONNX Runtime made of a network in int8: its optimised graph, read back in terms of the graph that went in.

Nodes keep their names there, with tokens appended where a node was rewritten. An 8-bit convolution works on channels-last data (`nhwc`),
and whatever can does so behind it; Transposes at the borders are re-orders, as between other layouts. Conversions between fp32 and
8 bits and re-orders belong to the kernel that needs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir import Graph, Kernel, KernelCall, Node, TensorSpec
from hwnas.ir.kernel import copied, make_call, members_of
from hwnas.ir.onnx_quantised import DEQUANTIZE, QUANTIZE
from hwnas.runtimes.ort_int8 import LIMITS, Scheme
from hwnas.runtimes.ort_kernels import named

CHANNELS_LAST = "nhwc"
TO_LAST, TO_FIRST = "ReorderInput", "ReorderOutput"
MOVES = frozenset({TO_LAST, TO_FIRST, QUANTIZE, DEQUANTIZE})
DEFINED = frozenset({"HardSwish", "Mish"})  # run as several operators that end in a product with the input
_TOKENS = re.compile(r"(_token_\d+)+$")


def kernel_of(graph: Graph, members: list[Node], *, op: str, layout: str, int8: bool) -> KernelCall:
    """The kernel that computes some nodes in an int8 network, in 8 bits or in fp32; limits are a matter of range and cost it nothing."""
    call = make_call(graph, members, op=op, layout=layout, precision="int8" if int8 else "fp32")
    if not int8:
        return call
    kernel = replace(
        call.kernel,
        fused=tuple(name for name in call.kernel.fused if name not in LIMITS),
        inputs=tuple(_as(spec, "uint8") for spec in call.kernel.inputs),
        weights=tuple(_as(spec, "int8") for spec in call.kernel.weights),
        outputs=tuple(_as(spec, "uint8") for spec in call.kernel.outputs),
    )
    return replace(call, kernel=kernel)


def move_of(graph: Graph, op: str, value: str, cause: KernelCall) -> KernelCall:
    """The kernel that converts or re-orders a value for another kernel."""
    spec = graph.specs[value]
    bits = _as(spec, "uint8")
    before, after = spec if op == QUANTIZE else bits, spec if op == DEQUANTIZE else bits
    layout = CHANNELS_LAST if op in (TO_LAST, TO_FIRST) else "nchw"
    kernel = Kernel(op=op, inputs=(before,), outputs=(after,), layout=layout, precision="int8")
    return KernelCall(kernel=kernel, nodes=cause.nodes, output=value)


def _as(spec: TensorSpec, dtype: str) -> TensorSpec:
    return TensorSpec(spec.shape, dtype) if spec.dtype == "float32" else spec


def attribute(graph: Graph, scheme: Scheme, optimized: Any, ran: Mapping[str, str]) -> dict[str, KernelCall]:
    """The kernels of an optimised int8 model, each with the graph nodes that it computes.

    Args:
        graph: what was built, in fp32.
        scheme: how it was quantised.
        optimized: the `onnx.ModelProto` that ONNX Runtime wrote.
        ran: what its profiler calls each node, with the node's operator, in execution order.

    Returns:
        For every name in `ran` its kernel; nodes that replace one operator share it.

    Raises:
        GraphError: a node of the optimised model cannot be traced back to the graph.
    """
    reading = _Reading(graph, scheme)
    nodes = named(optimized, ran)
    for name, node in nodes.items():
        reading.read(name, node)
    readers: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for value in node.input:
            readers.setdefault(value, []).append(name)
    for name in nodes:
        reading.place(name, readers)
    return reading.calls


@dataclass(slots=True, kw_only=True)
class _Value:
    """A value of the optimised model: the graph's value that it holds, whether in 8 bits, whether channels last."""

    held: str
    bits: bool = False
    last: bool = False


class _Reading:
    """Reads an optimised model node by node.

    Attributes:
        calls: the kernel of every node read so far, by the profiler's name for it.
    """

    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.calls: dict[str, KernelCall] = {}
        self._graph = graph
        self._by_name = {node.name: node for node in scheme.graph.nodes}
        self._position = {node.name: i for i, node in enumerate(graph.nodes)}
        self._owned: set[str] = set()
        self._values = {value: _Value(held=value) for value in graph.inputs}
        self._parts: dict[str, list[str]] = {}  # a value inside a definition -> the nodes behind it
        self._moves: dict[str, tuple[str, str, Sequence[str]]] = {}  # node -> what it does, if we know that; the value; what it writes
        self._writers: dict[str, KernelCall] = {}  # a graph's value -> the kernel that writes it

    def read(self, name: str, node: Any) -> None:
        """Finds the kernel of a node, or what it moves."""
        own = self._by_name.get(name) or self._by_name.get(_TOKENS.sub("", name))
        data = self._values.get(node.input[0], _Value(held=node.input[0]))
        if node.op_type == DEQUANTIZE and node.input[0] not in self._values:  # of weights, for an operator in fp32
            self._parts[node.output[0]] = [name]
            self._moves[name] = ("", node.input[0], node.output)
        elif node.op_type in (QUANTIZE, DEQUANTIZE):
            value = _TOKENS.sub("", name).removesuffix(f"_{node.op_type}")
            value = value if value in self._graph.specs else data.held
            self._values[node.output[0]] = _Value(held=value, bits=node.op_type == QUANTIZE, last=data.last)
            limits = members_of(self._graph, value, self._owned)
            if node.op_type == QUANTIZE and limits:  # a limit whose input nobody quantised
                self._made([name], limits, kernel_of(self._graph, limits, op=QUANTIZE, layout="nchw", int8=True))
            else:
                self._moves[name] = (node.op_type, value, node.output)
        elif node.op_type == "Transpose" and own is None:
            self._values[node.output[0]] = _Value(held=data.held, bits=data.bits, last=not data.last)
            self._moves[name] = (TO_FIRST if data.last else TO_LAST, data.held, node.output)
        else:
            self._compute(name, node, own, data)

    def _compute(self, name: str, node: Any, own: Node | None, data: _Value) -> None:
        parts = [name, *(part for value in node.input for part in self._parts.get(value, ()) if part not in self.calls)]
        if own is None:
            ends = next((value for value in (node.output[0], node.output[0].removesuffix("_raw")) if value in self._graph.producers), None)
            own = self._graph.producers[ends] if ends else self._defined(node)
        if own is None:
            self._parts.update((output, parts) for output in node.output)
            self._values.update((output, data) for output in node.output if data.held in self._graph.specs)
            self._moves[name] = ("", data.held, node.output)
            return
        known = [self._values[value] for value in node.input if value in self._values]
        bits = node.op_type.startswith("Q") or any(value.bits for value in known)
        last = any(value.last for value in known)
        members = {member.name: member for value in own.outputs for member in members_of(self._graph, value, self._owned)}
        ordered = sorted(members.values(), key=lambda member: self._position[member.name])
        if ordered:
            self._made(parts, ordered, kernel_of(self._graph, ordered, op=own.op, layout=CHANNELS_LAST if last else "nchw", int8=bits))
        else:  # one of several nodes that replace it
            self.calls.update(dict.fromkeys(parts, self._writers[own.outputs[0]]))
        self._values.update((new, _Value(held=value, bits=bits, last=last)) for new, value in zip(node.output, own.outputs, strict=False))

    def _made(self, parts: list[str], members: list[Node], call: KernelCall) -> None:
        self.calls.update(dict.fromkeys(parts, call))
        self._owned.update(member.name for member in members)
        self._writers.update((value, call) for member in members for value in member.outputs)

    def _defined(self, node: Any) -> Node | None:
        """The activation that a Mul ends, where it runs as its definition."""
        if node.op_type != "Mul" or not any(value in self._parts for value in node.input):
            return None
        held = [self._values[value].held for value in node.input if value in self._values]
        readers = (reader for value in held for reader in self._graph.consumers.get(value, ()))
        return next((reader for reader in readers if reader.op in DEFINED and reader.name not in self._owned), None)

    def place(self, name: str, readers: Mapping[str, list[str]]) -> KernelCall:
        """The kernel of a node; what moves a value belongs to the first kernel that needs it, or at the network's end to its writer."""
        if name not in self.calls:
            op, value, outputs = self._moves[name]
            value = copied(self._graph, value)
            causes = [self.place(reader, readers) for output in outputs for reader in readers.get(output, ())]
            if not causes and value not in self._writers:
                raise GraphError(f"ONNX Runtime's node '{name}' does not correspond to a node of graph '{self._graph.name}'")
            cause = min(causes or [self._writers[value]], key=lambda call: min(self._position[member] for member in call.nodes))
            self.calls[name] = move_of(self._graph, op, value, cause) if op else cause
        return self.calls[name]
