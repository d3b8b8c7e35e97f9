"""Which kernels TensorRT made of a graph: the layers of its engine, read back in terms of the graph that went in.

A layer's metadata name the ONNX nodes that it computes. Around that:

- Cast, Q and DQ that were written for a precision (`trt_precision`) belong to the node that they serve: alone, they add to its kernel.
- A copy into another layout is a kernel of its own that names the nodes of the kernel for which it is made.
- A block that TensorRT compiled as a whole (`ForeignNode`) is one kernel that names its members.
- A node that several layers compute belongs to the first; a layer that computes nothing new adds to the kernel of its nodes.
- A node that no layer names (a reshape that costs nothing, a folded normalisation) belongs to the kernel that reads it, or wrote for it.
- A layer of which nothing is known (TensorRT's own bookkeeping) adds to the kernel before it, so that the sum stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwnas.errors import GraphError
from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.cost import VIEWS
from hwnas.ir.kernel import COUNTED_WEIGHTS, FREE, copied, make_call
from hwnas.runtimes.trt_layers import LayerRecord

if TYPE_CHECKING:
    from onnx import ModelProto

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
BLOCK = "ForeignNode"  # several products in one kernel: none of them leads it
REFORMAT = "Reformat"
PRECISIONS = frozenset({"fp32", "fp16", "bf16", "fp8", "int8"})  # that arithmetic is done in
_WORD = re.compile(r"[^\s+(),\[\]{}]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a model that states precisions corresponds to its graph.

    Attributes:
        serves: for each node that the graph does not have, the graph's node for which it was written.
        holds: for each value that the graph does not have, the graph's value that it holds.
    """

    serves: Mapping[str, str]
    holds: Mapping[str, str]

    @classmethod
    def of(cls, model: ModelProto, graph: Graph) -> Written:
        """Reads it from the model: what was written serves its first reader, or, at an output, what it reads."""
        added = [node for node in model.graph.node if node.name not in graph.positions]
        readers: dict[str, str] = {}
        for node in model.graph.node:
            for value in node.input:
                readers.setdefault(value, node.name)
        holds: dict[str, str] = {}
        for node in added:
            if node.output[0] in graph.specs:  # an output of the network that is computed in another type
                holds[node.input[0]] = node.output[0]
            elif (value := holds.get(node.input[0], node.input[0])) in graph.specs:
                holds[node.output[0]] = value
        serves: dict[str, str] = {}
        for node in reversed(added):
            reader = readers.get(node.output[0], "")
            if reader in graph.positions:
                serves[node.name] = reader
            elif reader in serves:
                serves[node.name] = serves[reader]
            elif (producer := graph.producers.get(node.output[0])) is not None:
                serves[node.name] = producer.name
        return cls(serves=serves, holds=holds)


@dataclass(slots=True)
class _Group:
    """Nodes that one kernel computes, in the making."""

    nodes: set[str]
    precision: str
    served: frozenset[str]  # nodes whose Cast, Q and DQ are in the same layer


def kernel_of(graph: Graph, names: Iterable[str], precision: str) -> KernelCall:
    """The kernel that computes these nodes.

    One product leads it; where there are several, it is a block, and its weights are those of all of them; where there is none, the first
    node that does more than look at its input in another shape.
    """
    members: Sequence[Node] = sorted((graph.nodes[graph.positions[name]] for name in names), key=lambda node: graph.positions[node.name])
    products = [node for node in members if node.op in PRODUCTS]
    if len(products) > 1:
        call = make_call(graph, members, op=BLOCK, precision=precision)
        weights = [graph.specs[value] for node in products for value in _weights(graph, node)]
        fused = tuple(node.op for node in members if node.op not in FREE)
        return replace(call, kernel=replace(call.kernel, fused=fused, weights=tuple(weights)))
    working = [node for node in members if node.op not in VIEWS | FREE]
    lead = products[0] if products else (working or list(members))[0]
    call = make_call(graph, members, op=lead.op, precision=precision)
    fused = tuple(node.op for node in members if node is not lead and node.op not in VIEWS | FREE)
    return replace(call, kernel=replace(call.kernel, fused=fused))


def _weights(graph: Graph, node: Node) -> list[str]:
    return [value for value in node.inputs if value in graph.constants][: COUNTED_WEIGHTS.get(node.op)]


def attribute(
    graph: Graph, written: Written, layers: Sequence[LayerRecord], precisions: Mapping[str, str], names: Iterable[str] = ()
) -> Mapping[str, KernelCall]:
    """The kernels of an engine.

    Args:
        graph: what was built.
        written: how the model that TensorRT was given corresponds to it.
        layers: of the engine, in execution order.
        precisions: of the graph's nodes as they were asked for; an engine may say better.
        names: of layers that the profiler tells and the inspector may not.

    Returns:
        For every layer its kernel, in execution order but for what serves another; layers that belong to one kernel share it.

    Raises:
        GraphError: no layer computes a node of the graph.
    """
    reading = _Reading(graph, written)
    for layer in layers:
        reading.read(layer)
    if not reading.groups:
        raise GraphError(f"no layer of TensorRT's engine names a node of graph '{graph.name}'; build it with detailed profiling verbosity")
    reading.complete()
    return reading.calls(layers, precisions, names)


class _Reading:
    """Reads an engine layer by layer."""

    def __init__(self, graph: Graph, written: Written) -> None:
        self.groups: list[_Group] = []
        self._graph = graph
        self._written = written
        self._owner: dict[str, _Group] = {}  # by node
        self._group_of: dict[str, _Group] = {}  # by layer
        self._serving: dict[str, str] = {}  # layer -> node

    def read(self, layer: LayerRecord) -> None:
        """Finds what a layer computes that none before it did."""
        if layer.is_reformat:
            return
        named = self._named(layer)
        own = [name for name in named if name not in self._owner]
        if own:
            serves = self._written.serves
            group = _Group(set(own), layer.precision, frozenset(serves[name] for name in layer.origins if name in serves))
            self.groups.append(group)
            self._owner.update(dict.fromkeys(own, group))
            self._group_of[layer.name] = group
        elif named:
            self._group_of[layer.name] = self._owner[named[0]]
        else:
            served = [self._written.serves[name] for name in layer.origins if name in self._written.serves]
            if served:
                self._serving[layer.name] = served[0]

    def complete(self) -> None:
        """Gives every node that is left to the kernel that reads it, else to the one that wrote for it; constants to nobody."""
        graph = self._graph
        for node in graph.nodes:  # what is folded into a product goes with it
            if node.op in FREE and self._free(node) and node.inputs[0] in graph.producers:
                writer = graph.producers[node.inputs[0]].name
                if writer in self._owner and node.op != "Identity":
                    self._join(node, self._owner[writer])
        for node in reversed(graph.nodes):
            if self._free(node) and node.op not in FREE:
                readers = [reader.name for value in node.outputs for reader in self._readers(value)]
                group = next((self._owner[name] for name in readers if name in self._owner), None)
                if group is not None:
                    self._join(node, group)
        for node in graph.nodes:
            if self._free(node) and node.op not in FREE:
                values = [copied(graph, value) for value in node.inputs if value in graph.producers]
                group = next((self._owner[graph.producers[v].name] for v in values if graph.producers[v].name in self._owner), None)
                self._join(node, group or self.groups[-1])

    def calls(self, layers: Sequence[LayerRecord], precisions: Mapping[str, str], names: Iterable[str]) -> Mapping[str, KernelCall]:
        """The kernel of every layer."""
        made = {id(group): self._call(group, precisions) for group in self.groups}
        found: dict[str, KernelCall] = {layer: made[id(group)] for layer, group in self._group_of.items()}
        found.update((layer, made[id(self._owner[node])]) for layer, node in self._serving.items() if node in self._owner)
        copies = {layer.name: self._copy(layer, layers, found) for layer in layers if layer.is_reformat}
        found.update((name, call) for name, call in copies.items() if call is not None)
        ordered: dict[str, KernelCall] = {}
        before = made[id(self.groups[0])]
        for name in (*(layer.name for layer in layers), *names):
            before = found.get(name, ordered.get(name, before))
            ordered[name] = before
        late = {name: call for name, call in ordered.items() if name in self._serving}  # may run long before what they serve
        return {name: call for name, call in ordered.items() if name not in late} | late

    def _call(self, group: _Group, precisions: Mapping[str, str]) -> KernelCall:
        call = kernel_of(self._graph, group.nodes, "")
        ops = {name: self._graph.nodes[self._graph.positions[name]].op for name in call.nodes}
        leads = PRODUCTS if call.kernel.op == BLOCK else {call.kernel.op}
        lead = next(name for name, op in ops.items() if op in leads)
        asked = precisions.get(lead, "fp32")
        narrow = asked == "int8" and lead in group.served  # it dequantises its own operands
        precision = asked if narrow or group.precision not in PRECISIONS else group.precision
        return replace(call, kernel=replace(call.kernel, precision=precision))

    def _copy(self, layer: LayerRecord, layers: Sequence[LayerRecord], found: Mapping[str, KernelCall]) -> KernelCall | None:
        """The kernel of a copy; its cause is the layer that its name tells, else the first that reads what it writes."""
        writes = {tensor.name for tensor in layer.outputs}
        readers = (other.name for other in layers if other is not layer and writes.intersection(tensor.name for tensor in other.inputs))
        cause = found.get(layer.caused_by) or next((found[name] for name in readers if name in found), None)
        if cause is None:
            return None
        value = next((held for tensor in (*layer.inputs, *layer.outputs) if (held := self._held(tensor.name))), "") or self._data(cause)
        spec = self._graph.specs[value]
        kernel = Kernel(op=REFORMAT, inputs=(spec,), outputs=(spec,), precision=layer.precision or cause.kernel.precision)
        return KernelCall(kernel=kernel, nodes=cause.nodes, output=value)

    def _held(self, tensor: str) -> str:
        value = self._written.holds.get(tensor, tensor)
        return value if value in self._graph.specs else ""

    def _data(self, call: KernelCall) -> str:
        """The first activation that a kernel reads from outside."""
        members = [self._graph.nodes[self._graph.positions[name]] for name in call.nodes]
        inside = {value for node in members for value in node.outputs}
        reads = [value for node in members for value in node.inputs if value and value not in inside]
        return next((value for value in reads if value not in self._graph.constants), call.output)

    def _named(self, layer: LayerRecord) -> list[str]:
        """The graph's nodes that a layer names: in its metadata, else in its own name, after which the parser calls them."""
        positions = self._graph.positions
        named = [name for name in layer.origins if name in positions]
        if not named and not any(name in self._written.serves for name in layer.origins):
            named = [word for word in _WORD.findall(layer.name) if word in positions]
        if layer.is_foreign and len(layer.origins) == 2 and len(named) == 2:  # no metadata: its ends alone
            first, last = sorted(positions[name] for name in named)
            return [node.name for node in self._graph.nodes[first : last + 1] if node.outputs[0] not in self._graph.constants]
        return sorted(dict.fromkeys(named), key=positions.__getitem__)

    def _free(self, node: Node) -> bool:
        return node.name not in self._owner and not self._graph.constants.issuperset(node.outputs)

    def _readers(self, value: str) -> Iterable[Node]:
        for reader in self._graph.consumers.get(value, ()):
            if reader.op == "Identity" and reader.name not in self._owner:
                yield from self._readers(reader.outputs[0])
            else:
                yield reader

    def _join(self, node: Node, group: _Group) -> None:
        group.nodes.add(node.name)
        self._owner[node.name] = group
