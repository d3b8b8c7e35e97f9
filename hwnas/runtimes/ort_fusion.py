"""The kernels that ONNX Runtime will make of a graph on a CPU, told without asking it.

A search looks at far more networks than it could build. These are the optimiser's rules at ENABLE_ALL, as its optimised
graphs show them: a convolution absorbs the batch normalisation after it, one activation and a residual Add; convolutions and
pools work in a blocked layout (NCHWc), element-wise operators stay in it while all they read is in it, and a value that is
needed in the other layout is re-ordered once. A test holds the result equal to the runtime's own list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.kernel import make_call, members_of

CONV_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"})
GEMM_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
BLOCKED_UNARY = frozenset({"Relu", "Sigmoid", "Tanh", "Gelu", "QuickGelu", "HardSigmoid", "Clip", "HardSwish"})
LATE_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh"})  # absorbed after an Add was
REORDER_UNIT = 4  # channels that a layout reorder moves at a time
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


@dataclass(slots=True)
class _Group:
    """A kernel in the making: what leads it, the last node that it has absorbed, and what else it can absorb."""

    op: str
    tail: Node
    blocked: bool
    conv: bool = False
    activation: bool = False
    added: bool = False


class _Fusion:
    def __init__(self, graph: Graph, block: int) -> None:
        self.graph = graph
        self.block = block
        self.position = {node.name: i for i, node in enumerate(graph.nodes)}
        self.groups: list[_Group] = []
        self.by_tail: dict[str, _Group] = {}  # value -> the group that writes it
        self.absorbed: set[str] = set()
        self.alias: dict[str, str] = {}  # an Identity's output -> what it copies
        self.to_blocked: dict[str, str] = {}  # value -> first node that needs it re-ordered
        self.to_plain: dict[str, str] = {}

    def source(self, value: str) -> str:
        while value in self.alias:
            value = self.alias[value]
        return value

    def only_reader(self, value: str) -> Node | None:
        """The node that reads a value, where exactly one does and the value is no output of the network."""
        readers = self.graph.consumers.get(value, ())
        if len(readers) != 1 or value in self.graph.outputs or readers[0].inputs.count(value) != 1:
            return None
        return readers[0]

    def is_blocked(self, value: str) -> bool:
        group = self.by_tail.get(self.source(value))
        return group is not None and group.blocked

    def need(self, node: Node, *, blocked: bool, values: Sequence[str]) -> None:
        """Notes re-orders for what a node reads in the other layout."""
        for value in values:
            value = self.source(value)
            if value in self.graph.weights or self.is_blocked(value) == blocked:
                continue
            (self.to_blocked if blocked else self.to_plain).setdefault(value, node.name)

    def start(self, op: str, node: Node, *, blocked: bool, conv: bool = False) -> _Group:
        group = _Group(op=op, tail=node, blocked=blocked, conv=conv)
        self.groups.append(group)
        self.by_tail[node.outputs[0]] = group
        for value in node.outputs[1:]:
            self.by_tail[value] = group
        return group

    def extend(self, group: _Group, node: Node) -> None:
        del self.by_tail[group.tail.outputs[0]]
        group.tail = node
        self.by_tail[node.outputs[0]] = group
        self.absorbed.add(node.name)

    def blocked_conv(self, node: Node) -> bool:
        graph, block = self.graph, self.block
        if block == 1 or node.op != "Conv" or node.inputs[1] not in graph.weights:
            return False
        out_channels, group_channels, *window = graph.specs[node.inputs[1]].shape
        group = int(node.attr("group"))
        if len(window) != 2 or graph.specs[node.inputs[0]].dtype != "float32":
            return False
        if group == 1:
            return group_channels < block or group_channels % REORDER_UNIT == 0
        if group_channels == 1 and out_channels == group:
            return True
        return group_channels % block == 0 and (out_channels // group) % block == 0

    def conv(self, node: Node) -> None:
        blocked = self.blocked_conv(node)
        channels = self.graph.specs[node.inputs[0]].shape[1]
        direct = int(node.attr("group")) == 1 and channels < self.block  # few channels are read in plain layout
        self.need(node, blocked=blocked and not direct, values=node.inputs[:1])
        group = self.start("Conv", node, blocked=blocked, conv=True)
        reader = self.only_reader(node.outputs[0])
        if reader is not None and reader.op == "BatchNormalization" and node.inputs[1] in self.graph.weights:
            self.extend(group, reader)
            reader = self.only_reader(reader.outputs[0])
        if reader is not None and reader.op in CONV_ACTIVATIONS and node.op == "Conv":
            self.extend(group, reader)
            group.activation = True

    def swish(self, node: Node) -> Node | None:
        """The Mul that makes a sigmoid a swish, x * sigmoid(x)."""
        reader = self.only_reader(node.outputs[0])
        if node.op == "Sigmoid" and reader is not None and reader.op == "Mul" and node.inputs[0] in reader.inputs:
            return reader
        return None

    def add(self, node: Node) -> bool:
        """Lets a convolution absorb an Add and the activation after it; in plain layout only an Add with a Relu."""
        values = [self.source(value) for value in node.inputs]
        shapes = {self.graph.specs[value].shape for value in values}
        blocked = all(self.is_blocked(value) for value in values)
        reader = self.only_reader(node.outputs[0])
        activation = reader if reader is not None and reader.op in (LATE_ACTIVATIONS if blocked else {"Relu"}) else None
        if len(shapes) != 1 or not (blocked or activation):
            return False
        for value in values:
            group = self.by_tail.get(value)
            free = group is not None and group.conv and group.blocked == blocked and not group.activation and not group.added
            if group is None or not free or self.only_reader(value) is not node:
                continue
            self.need(node, blocked=blocked, values=values)
            self.extend(group, node)
            group.added = True
            if activation is not None:
                self.extend(group, activation)
                group.activation = True
            return True
        return False

    def stays_blocked(self, node: Node) -> bool:
        values = [self.source(value) for value in node.inputs if value]
        if not all(self.is_blocked(value) for value in values):
            return False
        specs = [self.graph.specs[value] for value in values]
        if node.op in BLOCKED_UNARY:
            return True
        if node.op in ("Add", "Mul"):
            return len({spec.shape for spec in specs}) == 1
        if node.op == "Concat":
            return node.attr("axis") == 1 and all(spec.shape[1] % self.block == 0 for spec in specs)
        return False

    def visit(self, node: Node) -> None:
        if node.op == "Identity":
            self.alias[node.outputs[0]] = node.inputs[0]
            return
        if node.op in ("Conv", "ConvTranspose"):
            self.conv(node)
            return
        if node.op in POOLS:
            shape = self.graph.specs[node.inputs[0]].shape
            blocked = self.is_blocked(node.inputs[0]) and shape[1] % self.block == 0
            self.need(node, blocked=blocked, values=node.inputs)
            self.start(node.op, node, blocked=blocked)
            return
        if node.op == "Gemm":
            self.need(node, blocked=False, values=node.inputs)
            group = self.start("Gemm", node, blocked=False)
            reader = self.only_reader(node.outputs[0])
            if reader is not None and reader.op in GEMM_ACTIVATIONS:
                self.extend(group, reader)
            return
        mul = self.swish(node)
        if mul is not None:
            blocked = self.is_blocked(node.inputs[0])
            self.extend(self.start("QuickGelu", node, blocked=blocked), mul)
            return
        if node.op == "Add" and self.add(node):
            return
        blocked = self.stays_blocked(node)
        self.need(node, blocked=blocked, values=[value for value in node.inputs if value])
        self.start(node.op, node, blocked=blocked)

    def calls(self) -> tuple[KernelCall, ...]:
        graph = self.graph
        for node in graph.nodes:
            if node.name not in self.absorbed:
                self.visit(node)
        for value in graph.outputs:
            if self.is_blocked(value):
                self.to_plain.setdefault(self.source(value), graph.producers[value].name)
        layout = f"nchwc{self.block}"
        owned: set[str] = set()
        owner: dict[str, tuple[str, ...]] = {}
        made: list[KernelCall] = []
        for group in sorted(self.groups, key=lambda group: self.position[group.tail.name]):
            members = members_of(graph, group.tail.outputs[0], owned)
            owned.update(node.name for node in members)
            tagged = group.blocked and (group.conv or group.op in POOLS)
            call = make_call(graph, members, op=group.op, layout=layout if tagged else "nchw")
            owner.update(dict.fromkeys(call.nodes, call.nodes))
            made.append(call)
        for op, needs in (("ReorderInput", self.to_blocked), ("ReorderOutput", self.to_plain)):
            for value, cause in needs.items():
                spec = graph.specs[value]
                kernel = Kernel(op=op, inputs=(spec,), outputs=(spec,), layout=layout)
                made.append(KernelCall(kernel=kernel, nodes=owner[cause], output=value))
        return tuple(sorted(made, key=lambda call: self.position[call.nodes[-1]]))


def fuse(graph: Graph, block: int) -> tuple[KernelCall, ...]:
    """The kernels of a graph on ONNX Runtime's CPU provider, in graph order.

    Args:
        graph: the network; weights may still be recipes.
        block: channels per block of the layout (`OrtRuntime.block`, kept in every profile); 1 for none.
    """
    return _Fusion(graph, block).calls()
